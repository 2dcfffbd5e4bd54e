-- API tokens that see and change a part of the fleet alone: the devices that their selector means.

SET LOCAL lock_timeout = '10s';

ALTER TABLE api_tokens
    ADD COLUMN selector jsonb,
    ADD CONSTRAINT api_tokens_selector_not_admin CHECK (selector IS NULL OR NOT 'admin' = ANY (scopes));
COMMENT ON COLUMN api_tokens.selector IS
    'Which devices it sees and changes, services never; NULL: all. A token that can make tokens has none: it could make one without.';

CREATE FUNCTION fleetgate_token_selector_problem(selector jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    member record;
    problem text;
BEGIN
    FOR member IN SELECT key, value FROM jsonb_each(selector) ORDER BY key COLLATE "C" LOOP
        problem := CASE
            WHEN member.key IN ('online', 'enabled', 'seen', 'state')
                THEN 'is not for a token: a selector of tokens tests name, kind, area, floor, capability and meta'
            WHEN member.key = 'not' THEN fleetgate_token_selector_problem(member.value)
            WHEN member.key = 'any' THEN (
                SELECT fleetgate_problem_at((place - 1)::text, found.problem)
                FROM jsonb_array_elements(member.value) WITH ORDINALITY AS one (value, place)
                CROSS JOIN LATERAL (SELECT fleetgate_token_selector_problem(one.value) AS problem) AS found
                WHERE found.problem IS NOT NULL ORDER BY place LIMIT 1)
            END;
        IF problem IS NOT NULL THEN
            RETURN fleetgate_problem_at(member.key, problem);
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_token_selector_problem(jsonb) IS
    'What of a valid selector a token may not have: what devices say of themselves, and what changes by use; NULL: nothing.';

CREATE FUNCTION fleetgate_check_token_selector() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    problem text := coalesce(fleetgate_selector_problem(NEW.selector), fleetgate_token_selector_problem(NEW.selector));
BEGIN
    IF problem IS NOT NULL THEN
        RAISE check_violation USING MESSAGE = format('the selector %s', problem), CONSTRAINT = 'selector', TABLE = TG_TABLE_NAME,
            SCHEMA = TG_TABLE_SCHEMA;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION fleetgate_check_token_selector() IS 'Refuses a selector that is not valid or not for a token, and says what is wrong.';

CREATE TRIGGER api_tokens_check_selector
    BEFORE INSERT OR UPDATE OF selector ON api_tokens FOR EACH ROW WHEN (NEW.selector IS NOT NULL)
    EXECUTE FUNCTION fleetgate_check_token_selector();

DO $$
BEGIN
    PERFORM fleetgate_keep_audit('api_tokens', 'token', NULL, 'name', '{name,scopes,selector,expires_at,revoked_at}', '{hash}');
END
$$;
