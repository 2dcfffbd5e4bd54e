-- Selectors: which devices are meant. docs/SELECTORS.md has the grammar, src/domain/selector/json.rs reads the same.

-- A value of meta that is looked for.
CREATE INDEX devices_by_meta ON devices USING gin (meta jsonb_path_ops);

CREATE FUNCTION fleetgate_is_age(value jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN jsonb_typeof(value) = 'string' AND value #>> '{}' ~ '^[0-9]{1,6}[smhd]$';
COMMENT ON FUNCTION fleetgate_is_age(jsonb) IS 'Whether a value is a span of time as selectors write it, such as "5m".';

CREATE FUNCTION fleetgate_problem_at(member text, problem text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '/' || replace(replace(member, '~', '~0'), '/', '~1') || CASE WHEN problem LIKE '/%' THEN '' ELSE ': ' END || problem;
COMMENT ON FUNCTION fleetgate_problem_at(text, text) IS 'A problem with the place of it in front, a JSON Pointer; the problem is within the member.';

CREATE FUNCTION fleetgate_list_length_problem(list jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN jsonb_array_length(list) NOT BETWEEN 1 AND 100 THEN 'must be a list of 1 to 100 values' END;
COMMENT ON FUNCTION fleetgate_list_length_problem(jsonb) IS 'What is wrong with the length of a list in a selector; NULL: nothing.';

CREATE FUNCTION fleetgate_selector_text_problem(test jsonb, depth integer) RETURNS text
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    member record;
    problem text;
BEGIN
    CASE jsonb_typeof(test)
    WHEN 'null' THEN
        RETURN NULL;
    WHEN 'string' THEN
        RETURN CASE WHEN NOT fleetgate_is_name(test #>> '{}') THEN 'is not a valid name' END;
    WHEN 'array' THEN
        RETURN coalesce(fleetgate_list_length_problem(test),
            (SELECT 'must be a list of texts that are valid names' FROM jsonb_array_elements(test) AS one (value)
             WHERE jsonb_typeof(value) <> 'string' OR NOT fleetgate_is_name(value #>> '{}') LIMIT 1));
    WHEN 'object' THEN
        IF test = '{}' THEN
            RETURN 'must name prefix or not';
        END IF;
        FOR member IN SELECT key, value FROM jsonb_each(test) ORDER BY key COLLATE "C" LOOP
            problem := CASE member.key
                WHEN 'prefix' THEN CASE WHEN jsonb_typeof(member.value) <> 'string'
                    OR octet_length(member.value #>> '{}') NOT BETWEEN 1 AND 1024 THEN 'must be a text of 1 to 1024 bytes' END
                WHEN 'not' THEN CASE WHEN depth >= 4 THEN 'is nested too deep; any and not go 4 levels deep'
                    ELSE fleetgate_selector_text_problem(member.value, depth + 1) END
                ELSE 'is not a test of a text; there are prefix and not' END;
            IF problem IS NOT NULL THEN
                RETURN fleetgate_problem_at(member.key, problem);
            END IF;
        END LOOP;
        RETURN NULL;
    ELSE
        RETURN 'must be a text, a list of texts, null (absent), {"prefix": "x"} or {"not": …}';
    END CASE;
END
$$;
COMMENT ON FUNCTION fleetgate_selector_text_problem(jsonb, integer) IS 'What is wrong with a selector''s test of a text; NULL: nothing.';

CREATE FUNCTION fleetgate_selector_value_problem(test jsonb, is_state boolean, depth integer) RETURNS text
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    member record;
    problem text;
BEGIN
    CASE jsonb_typeof(test)
    WHEN 'array' THEN
        RETURN coalesce(fleetgate_list_length_problem(test),
            (SELECT 'must be a list of texts, numbers, true, false and null' FROM jsonb_array_elements(test) AS one (value)
             WHERE jsonb_typeof(value) IN ('array', 'object') OR jsonb_typeof(value) = 'string' AND octet_length(value #>> '{}') > 1024
             LIMIT 1));
    WHEN 'object' THEN
        IF test = '{}' THEN
            RETURN 'must name at least one test, such as {"exists": true}';
        END IF;
        FOR member IN SELECT key, value FROM jsonb_each(test) ORDER BY key COLLATE "C" LOOP
            problem := CASE
                WHEN member.key = 'not' THEN CASE WHEN depth >= 4 THEN 'is nested too deep; any and not go 4 levels deep'
                    ELSE fleetgate_selector_value_problem(member.value, is_state, depth + 1) END
                WHEN member.key IN ('lt', 'le', 'gt', 'ge') THEN
                    CASE WHEN jsonb_typeof(member.value) <> 'number' THEN 'must be a number' END
                WHEN member.key = 'exists' THEN
                    CASE WHEN jsonb_typeof(member.value) <> 'boolean' THEN 'must be true or false' END
                WHEN member.key = 'within' AND is_state THEN
                    CASE WHEN NOT fleetgate_is_age(member.value) THEN 'must be a span of time such as "30s", "5m", "2h" or "7d"' END
                ELSE 'is not a test of a value' END;
            IF problem IS NOT NULL THEN
                RETURN fleetgate_problem_at(member.key, problem);
            END IF;
        END LOOP;
        RETURN NULL;
    ELSE
        RETURN CASE WHEN jsonb_typeof(test) = 'string' AND octet_length(test #>> '{}') > 1024
            THEN 'must be a text of at most 1024 bytes' END;
    END CASE;
END
$$;
COMMENT ON FUNCTION fleetgate_selector_value_problem(jsonb, boolean, integer) IS
    'What is wrong with a selector''s test of a value of meta or state; NULL: nothing.';

CREATE FUNCTION fleetgate_selector_field_problem(field text, test jsonb, depth integer) RETURNS text
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    member record;
    problem text;
    -- A JSON Pointer (RFC 6901); of a state with the binding's name in front.
    pointer text := '^(/([^/~]|~[01])*)*$';
BEGIN
    CASE field
    WHEN 'name', 'kind', 'area', 'floor' THEN
        RETURN fleetgate_selector_text_problem(test, depth);
    WHEN 'capability' THEN
        RETURN CASE WHEN jsonb_typeof(test) = 'null' OR jsonb_typeof(test) NOT IN ('string', 'array')
            THEN 'must be the name of a capability, or a list of them' ELSE fleetgate_selector_text_problem(test, depth) END;
    WHEN 'online', 'enabled' THEN
        RETURN CASE WHEN jsonb_typeof(test) <> 'boolean' THEN 'must be true or false' END;
    WHEN 'seen' THEN
        RETURN CASE WHEN jsonb_typeof(test) <> 'object' OR NOT (test ?| '{within,before}') OR test - 'within' - 'before' <> '{}'
                OR (test ?& '{within,before}') OR NOT fleetgate_is_age(coalesce(test -> 'within', test -> 'before'))
            THEN 'must be {"within": "5m"} or {"before": "7d"}' END;
    WHEN 'meta', 'state' THEN
        IF jsonb_typeof(test) <> 'object' OR test = '{}' THEN
            RETURN CASE field WHEN 'meta' THEN 'must be an object of tests by JSON Pointer, such as {"/room": "101"}'
                ELSE 'must be an object of tests by binding, such as {"temperature": {"gt": 25}}' END;
        END IF;
        FOR member IN SELECT key, value FROM jsonb_each(test) ORDER BY key COLLATE "C" LOOP
            problem := CASE
                WHEN field = 'state' AND NOT fleetgate_is_name(split_part(member.key, '/', 1)) THEN 'the binding''s name is not a valid name'
                WHEN CASE field WHEN 'meta' THEN member.key ELSE substr(member.key, length(split_part(member.key, '/', 1)) + 1) END !~ pointer
                    THEN 'is not a JSON Pointer'
                ELSE fleetgate_selector_value_problem(member.value, field = 'state', depth) END;
            IF problem IS NOT NULL THEN
                RETURN fleetgate_problem_at(member.key, problem);
            END IF;
        END LOOP;
        RETURN NULL;
    WHEN 'any' THEN
        IF depth >= 4 THEN
            RETURN 'is nested too deep; any and not go 4 levels deep';
        ELSIF jsonb_typeof(test) <> 'array' OR jsonb_array_length(test) NOT BETWEEN 1 AND 8 THEN
            RETURN 'must be a list of 1 to 8 selectors';
        END IF;
        FOR member IN SELECT place - 1 AS place, value FROM jsonb_array_elements(test) WITH ORDINALITY AS one (value, place) LOOP
            problem := fleetgate_selector_problem(member.value, depth + 1);
            IF problem IS NOT NULL THEN
                RETURN fleetgate_problem_at(member.place::text, problem);
            END IF;
        END LOOP;
        RETURN NULL;
    WHEN 'not' THEN
        RETURN CASE WHEN depth >= 4 THEN 'is nested too deep; any and not go 4 levels deep'
            ELSE fleetgate_selector_problem(test, depth + 1) END;
    ELSE
        RETURN 'is not a field of a selector; there are name, kind, area, floor, capability, online, enabled, seen, meta, state, any, not';
    END CASE;
END
$$;
COMMENT ON FUNCTION fleetgate_selector_field_problem(text, jsonb, integer) IS 'What is wrong with one member of a selector; NULL: nothing.';

CREATE FUNCTION fleetgate_selector_tests(part jsonb, field text) RETURNS integer
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
BEGIN
    -- field: what the part is a test of; NULL: it is a selector. Only what is a valid selector is counted.
    IF field IS NULL THEN
        RETURN (SELECT coalesce(sum(fleetgate_selector_tests(value, key)), 0) FROM jsonb_each(part));
    ELSIF field = 'any' THEN
        RETURN (SELECT coalesce(sum(fleetgate_selector_tests(value, NULL)), 0) FROM jsonb_array_elements(part));
    ELSIF field = 'not' THEN
        RETURN fleetgate_selector_tests(part, NULL);
    ELSIF field IN ('meta', 'state') THEN
        RETURN (SELECT sum(fleetgate_selector_tests(value, 'a value')) FROM jsonb_each(part));
    ELSIF field = 'seen' OR jsonb_typeof(part) <> 'object' THEN
        RETURN 1;
    END IF;
    RETURN (SELECT sum(CASE key WHEN 'not' THEN fleetgate_selector_tests(value, 'a value') ELSE 1 END) FROM jsonb_each(part));
END
$$;
COMMENT ON FUNCTION fleetgate_selector_tests(jsonb, text) IS 'How many tests a valid selector has, or a part of it.';

CREATE FUNCTION fleetgate_selector_problem(selector jsonb, depth integer DEFAULT 1) RETURNS text
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    member record;
    problem text;
BEGIN
    IF jsonb_typeof(selector) <> 'object' THEN
        RETURN 'must be a selector, a JSON object such as {"area": "lab"}';
    ELSIF depth = 1 AND octet_length(selector::text) > 8192 THEN
        RETURN 'is too long';
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
COMMENT ON FUNCTION fleetgate_selector_problem(jsonb, integer) IS
    'What is wrong with a selector: where (a JSON Pointer) and what would be right; NULL: it is valid.';

-- A rule that was written before selectors were checked, and is invalid, keeps its row and is refused at its next change.
CREATE FUNCTION fleetgate_check_selector() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    problem text := fleetgate_selector_problem(NEW.selector);
BEGIN
    IF problem IS NOT NULL THEN
        RAISE check_violation USING MESSAGE = format('the selector %s', problem), CONSTRAINT = 'selector', TABLE = TG_TABLE_NAME,
            SCHEMA = TG_TABLE_SCHEMA;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION fleetgate_check_selector() IS 'Refuses a selector that is not valid, and says what is wrong.';

CREATE TRIGGER routing_rules_check_selector
    BEFORE INSERT OR UPDATE OF selector ON routing_rules FOR EACH ROW EXECUTE FUNCTION fleetgate_check_selector();

-- Rules ---------------------------------------------------------------------------------------

ALTER TABLE routing_rules
    DROP CONSTRAINT routing_rules_strategy_known,
    ADD CONSTRAINT routing_rules_strategy_known CHECK (strategy IN ('all', 'any', 'first')),
    ADD CONSTRAINT routing_rules_priority_range CHECK (priority BETWEEN -1000000 AND 1000000);
COMMENT ON TABLE routing_rules IS
    'Which devices get a capability''s commands. Of the enabled rules the first decides that yields a device.';
COMMENT ON COLUMN routing_rules.strategy IS
    'all: every device that matches gets the command. any: one does, an online one if there is one, and the one that was commanded longest ago. first: the first by name.';

ALTER TABLE commands ADD COLUMN rule text COLLATE "C", ADD COLUMN selector jsonb;
COMMENT ON COLUMN commands.rule IS 'The routing rule that chose the devices, by its name of then; NULL: none did.';
COMMENT ON COLUMN commands.selector IS 'The selector that chose the devices; NULL: they were named.';
