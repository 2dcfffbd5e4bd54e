-- A batch of events costs PostgreSQL a third less: the same is written, with fewer and smaller statements (docs/PERFORMANCE.md).

-- Events wait while the triggers are replaced.
SET LOCAL lock_timeout = '10s';
DROP TRIGGER client_sessions_wake_commands_new ON client_sessions;
DROP TRIGGER client_sessions_wake_commands ON client_sessions;

-- Commands that wait for devices which connect: looked for once a statement, not once a session.

CREATE FUNCTION fleetgate_wake_commands_of_devices(devices bigint[]) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    waiting text[];
BEGIN
    waiting := ARRAY(SELECT DISTINCT fleetgate_command_line(device_id, binding) FROM command_deliveries
                     WHERE device_id = ANY (devices || ARRAY(SELECT id FROM devices AS child WHERE child.gateway = ANY (devices)))
                       AND ended_at IS NULL);
    IF cardinality(waiting) > 0 THEN
        PERFORM fleetgate_queue_work('command', waiting, array_fill('{}'::jsonb, ARRAY[cardinality(waiting)]));
    END IF;
END
$$;
COMMENT ON FUNCTION fleetgate_wake_commands_of_devices(bigint[]) IS
    'Queues the lines of devices and of their children in which commands wait.';

-- The release before calls it.
CREATE OR REPLACE FUNCTION fleetgate_wake_commands_of_device(device bigint) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM fleetgate_wake_commands_of_devices(ARRAY[device]);
END
$$;

CREATE OR REPLACE FUNCTION fleetgate_wake_commands() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM fleetgate_wake_commands_of_devices(ARRAY[NEW.id]);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_wake_commands() IS 'Queues what waits for a device that was enabled, disabled or put behind another gateway.';

CREATE FUNCTION fleetgate_wake_commands_of_sessions() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    connected bigint[] := ARRAY(SELECT device_id FROM added WHERE open);
BEGIN
    IF cardinality(connected) > 0 THEN
        PERFORM fleetgate_wake_commands_of_devices(connected);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_wake_commands_of_sessions() IS 'Queues what waits for devices that connect.';

CREATE TRIGGER client_sessions_wake_commands_new
    AFTER INSERT ON client_sessions REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_wake_commands_of_sessions();
CREATE TRIGGER client_sessions_wake_commands
    AFTER UPDATE ON client_sessions REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_wake_commands_of_sessions();

-- Reports. Violations are rare: they have a statement of their own, so that the usual one is small.

CREATE OR REPLACE FUNCTION fleetgate_write_reports(
    device_ids bigint[], stamps timestamptz[], seen timestamptz[], nodes text[], bindings text[], reports jsonb[],
    violations jsonb[], noted timestamptz DEFAULT NULL
) RETURNS bigint[]
    LANGUAGE plpgsql SET search_path FROM CURRENT
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off
AS $$
DECLARE
    noted_ms bigint;
    untrusted bigint;
    doubted bigint[] := '{}';
    any_broken boolean := cardinality(array_remove(violations, NULL)) > 0;
    -- The newest of each device and binding; of each device a turn for each binding, because PostgreSQL
    -- writes a row once a statement.
    ids bigint[];
    heard timestamptz[];
    names text[];
    newest jsonb[];
    turns bigint[];
    last_turn bigint;
    missing bigint[];
    outdated bigint;
BEGIN
    IF cardinality(device_ids) = 0 THEN
        RETURN ARRAY[0, 0];
    END IF;
    noted := coalesce(noted, clock_timestamp());
    noted_ms := floor(extract(epoch FROM noted) * 1000);
    untrusted := (SELECT count(*) FROM unnest(stamps) AS stamp WHERE fleetgate_is_ahead(stamp, noted));
    -- OFFSET 0: an entry is computed once, and PostgreSQL puts the body of what orders it in place of the call.
    SELECT array_agg(device_id), array_agg(last_heard), array_agg(binding), array_agg(report), array_agg(turn), max(turn)
    INTO ids, heard, names, newest, turns, last_turn
    FROM (SELECT DISTINCT ON (device_id, binding) device_id, binding, report,
                 max(heard_at) OVER (PARTITION BY device_id) AS last_heard,
                 dense_rank() OVER (PARTITION BY device_id ORDER BY binding NULLS LAST) AS turn
          FROM (SELECT each.device_id, CASE WHEN each.seen > noted THEN noted ELSE each.seen END AS heard_at, each.binding,
                       fleetgate_noted(each.report, noted_ms) AS report
                FROM unnest(device_ids, seen, bindings, reports) AS each (device_id, seen, binding, report)
                OFFSET 0) AS told
          ORDER BY device_id, binding, report IS NULL, fleetgate_report_order(report, noted_ms) DESC) AS item
    WHERE binding IS NOT NULL OR turn = 1;
    IF untrusted > 0 OR EXISTS (SELECT FROM untrusted_timestamps) THEN
        doubted := ARRAY(SELECT device_id FROM untrusted_timestamps
                         WHERE device_id = ANY (device_ids) AND since < noted - fleetgate_clock_tolerance());
        PERFORM fleetgate_note_clocks(device_ids, stamps, nodes, noted);
    END IF;
    SELECT array_agg(news.device_id) FILTER (WHERE known.device_id IS NULL),
           count(*) FILTER (WHERE known.device_id IS NOT NULL AND news.report IS NOT NULL
               AND NOT fleetgate_replaces_report(news.report, known.state -> news.binding, noted_ms, news.device_id = ANY (doubted)))
    INTO missing, outdated
    FROM unnest(ids, names, newest) AS news (device_id, binding, report)
    LEFT JOIN device_state AS known USING (device_id);
    -- A device that is gone by now has no state.
    IF missing IS NOT NULL THEN
        INSERT INTO device_state (device_id)
        SELECT id FROM devices WHERE id = ANY (missing) ORDER BY id
        ON CONFLICT DO NOTHING;
    END IF;
    IF any_broken THEN
        -- Rows are locked in one order, whatever is written of them.
        PERFORM FROM device_state WHERE device_id = ANY (ids) ORDER BY device_id FOR NO KEY UPDATE;
        UPDATE device_state AS known SET last_violation = news.violation
        FROM (SELECT DISTINCT ON (device_id) device_id, violation
              FROM (SELECT each.device_id, fleetgate_noted(each.violation, noted_ms) AS violation
                    FROM unnest(device_ids, violations) AS each (device_id, violation)
                    WHERE each.violation IS NOT NULL
                    OFFSET 0) AS told
              ORDER BY device_id, fleetgate_violation_order(violation, noted_ms) DESC) AS news
        WHERE known.device_id = news.device_id
          AND fleetgate_replaces_violation(news.violation, known.last_violation, noted_ms, known.device_id = ANY (doubted));
    END IF;
    -- What another transaction wrote meanwhile is compared again: PostgreSQL waits for it and then
    -- evaluates these expressions on the row that it left. A row whose values would not change is not
    -- written. A last_seen that lies ahead of now was noted by a clock that was wrong itself.
    FOR this_turn IN 1 .. coalesce(last_turn, 0) LOOP
        UPDATE device_state AS known SET
            last_seen = greatest(CASE WHEN known.last_seen > noted THEN noted ELSE known.last_seen END, news.last_heard),
            state = CASE
                WHEN fleetgate_replaces_report(news.report, known.state -> news.binding, noted_ms, known.device_id = ANY (doubted))
                THEN known.state || jsonb_build_object(news.binding, news.report) ELSE known.state END
        FROM unnest(ids, heard, names, newest, turns)
             AS news (device_id, last_heard, binding, report, turn)
        WHERE news.turn = this_turn AND known.device_id = news.device_id
          AND (known.last_seen IS NULL AND news.last_heard IS NOT NULL OR news.last_heard > known.last_seen
               OR known.last_seen > noted
               OR fleetgate_replaces_report(news.report, known.state -> news.binding, noted_ms, known.device_id = ANY (doubted)));
    END LOOP;
    RETURN ARRAY[outdated, untrusted];
END
$$;
