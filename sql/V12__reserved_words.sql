-- What means something else to EMQX than it says: names that are EMQX's own words, and topics that are
-- a pattern of its rules (or of mosquitto's) where a topic belongs. The rules are those of src/domain/name.rs
-- and src/domain/topic.rs.

-- Rows from before that break them would be found by the next dump that is restored. Nothing is deleted here
-- unasked: the migration ends with a list of them, before anything is changed.
DO $$
DECLARE
    -- The part of the rules that is new.
    pattern CONSTANT text := '^eq |%[uc](?![A-Za-z0-9])|^\$delayed/';
    found text;
BEGIN
    SELECT string_agg(line, E'\n' ORDER BY line) INTO found
    FROM (
        SELECT format('device %s (id %s), client id %s: rename it (UPDATE devices SET name = ..., client_id = ... WHERE id = %s)',
                      to_json(name), id, to_json(effective_client_id), id) AS line
        FROM devices WHERE name IN ('undefined', 'http_api') OR effective_client_id IN ('undefined', 'http_api')
        UNION ALL
        SELECT format('grant %s of device %s to %s %s: DELETE FROM topic_grants WHERE id = %s',
                      topic_grants.id, to_json(devices.name), action, to_json(topic_filter), topic_grants.id)
        FROM topic_grants JOIN devices ON devices.id = device_id WHERE topic_filter ~ pattern
        UNION ALL
        SELECT format('binding %s of device %s, topics %s, %s: DELETE FROM topic_bindings WHERE device_id = %s AND name = %s',
                      to_json(topic_bindings.name), to_json(devices.name), coalesce(to_json(state_topic)::text, '-'),
                      coalesce(to_json(command_topic)::text, '-'), device_id, quote_literal(topic_bindings.name))
        FROM topic_bindings JOIN devices ON devices.id = device_id
        WHERE state_topic ~ pattern OR command_topic ~ pattern
        LIMIT 20
    ) AS lines;
    IF found IS NOT NULL THEN
        RAISE EXCEPTION E'the registry holds rows that mean something else to EMQX than they say; change or remove them by hand, then migrate again (the first 20):\n%', found
            USING ERRCODE = 'check_violation';
    END IF;
END
$$;

ALTER TABLE devices
    ADD CONSTRAINT devices_name_reserved CHECK (name NOT IN ('undefined', 'http_api')),
    ADD CONSTRAINT devices_client_id_reserved CHECK (client_id NOT IN ('undefined', 'http_api'));
COMMENT ON CONSTRAINT devices_name_reserved ON devices IS
    'EMQX writes "undefined" where there is no user name or client id, and "http_api" as the client id of what is published over its REST API.';

CREATE OR REPLACE FUNCTION fleetgate_is_binding_topic(value text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN fleetgate_is_topic_name(value) AND NOT starts_with(value, '$') AND strpos(value, '${') = 0
        AND value !~ '^eq |%[uc](?![A-Za-z0-9])';
COMMENT ON FUNCTION fleetgate_is_binding_topic(text) IS
    'Whether a binding may carry a topic: a topic name outside the broker''s $ name space, without ${ (which EMQX expands) or %u and %c (which mosquitto would), not beginning with "eq " (which EMQX takes for "literally").';

CREATE OR REPLACE FUNCTION fleetgate_is_grant_filter(value text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN fleetgate_is_topic_filter(value)
        AND value !~ '^\$(share|queue|stream|exclusive|delayed)/'
        AND strpos(value, '${') = 0
        AND value !~ '^eq |%[uc](?![A-Za-z0-9])';
COMMENT ON FUNCTION fleetgate_is_grant_filter(text) IS
    'Whether a grant may carry a filter: a topic filter without a prefix that says how ($share/, $delayed/ and the like), without ${ (which EMQX expands) or %u and %c (which mosquitto would), not beginning with "eq " (which EMQX takes for "literally").';
