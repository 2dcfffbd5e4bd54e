-- Where the service and the database said different things.

-- A grant of everything below a capability's topic covers that topic too (MQTT 5 §4.7.1.2), and EMQX lets the request pass.
CREATE OR REPLACE FUNCTION fleetgate_may_command(service bigint, capability text) RETURNS boolean
    LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT EXISTS (
        SELECT FROM devices JOIN topic_grants AS allowed ON allowed.device_id = devices.id
        WHERE devices.id = service AND enabled AND kind = 'service' AND allowed.action = 'publish'
          AND allowed.topic_filter IN (
              'fleetgate/commands/#', 'fleetgate/commands/+', 'fleetgate/commands/+/#',
              'fleetgate/commands/' || fleetgate_may_command.capability,
              'fleetgate/commands/' || fleetgate_may_command.capability || '/#'))
$$;

-- The service counts a selector without spaces: what it takes has less than twice as many bytes with those that jsonb writes.
CREATE OR REPLACE FUNCTION fleetgate_selector_problem(selector jsonb, depth integer DEFAULT 1) RETURNS text
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    member record;
    problem text;
BEGIN
    IF jsonb_typeof(selector) <> 'object' THEN
        RETURN 'must be a selector, a JSON object such as {"area": "lab"}';
    ELSIF depth = 1 AND octet_length(selector::text) > 16384 THEN
        RETURN 'is too long; at most 16384 bytes as jsonb writes it are allowed';
    END IF;
    FOR member IN SELECT key, value FROM jsonb_each(selector) ORDER BY key COLLATE "C" LOOP
        problem := fleetgate_selector_field_problem(member.key, member.value, depth);
        IF problem IS NOT NULL THEN
            RETURN fleetgate_problem_at(member.key, problem);
        END IF;
    END LOOP;
    IF depth = 1 AND fleetgate_selector_tests(selector, NULL) > 32 THEN
        RETURN 'has too many tests; a selector has at most 32';
    END IF;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION fleetgate_is_imported_hash(text) IS
    'Whether a text has the form of a hash that another broker made. What it costs and how long its parts are is judged when it is read (domain/foreign_hash.rs); one out of bounds allows no login.';
