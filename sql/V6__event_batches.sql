-- What a batch of events writes, as functions: one statement, so one round trip and one transaction
-- that PostgreSQL commits by itself, however many steps there are to it.
--
-- Each step sees what was committed before it began (READ COMMITTED, a volatile function): the online
-- flags and the order of reports need that after their rows are locked.
--
-- A batch is small beside the fleet, so looking each row up by its key is right, whatever the
-- statistics say; they are stale exactly when a new fleet comes online. Hence the planner settings.
--
-- fleetgate_newer_reports() of V4 stays for replicas of the release before.

CREATE FUNCTION fleetgate_move_sessions(
    client_ids text[], device_ids bigint[], began timestamptz[], ended timestamptz[], inferences boolean[]
) RETURNS bigint
    LANGUAGE plpgsql SET search_path FROM CURRENT
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off
AS $$
DECLARE
    locked bigint[];
    moved bigint;
BEGIN
    IF cardinality(client_ids) = 0 THEN
        RETURN 0;
    END IF;
    -- The devices of the moves, and those that own a session which a move may take over.
    locked := ARRAY(
        SELECT id FROM devices
        WHERE id IN (SELECT unnest(device_ids)
                     UNION SELECT device_id FROM client_sessions WHERE client_id = ANY (client_ids))
        ORDER BY id FOR NO KEY UPDATE);
    -- Forward only; the one step back is out of an end that was only inferred. A device that is gone
    -- by now has no sessions.
    INSERT INTO client_sessions AS known
        (client_id, device_id, connected_at, open, ended_at, inferred, noted_at)
    SELECT move.client_id, move.device_id, move.began, move.ended IS NULL, move.ended,
           move.inferred AND move.ended IS NOT NULL, clock_timestamp()
    FROM unnest(client_ids, device_ids, began, ended, inferences)
         AS move (client_id, device_id, began, ended, inferred)
    WHERE move.device_id = ANY (locked)
    ORDER BY move.client_id COLLATE "C"
    ON CONFLICT (client_id) DO UPDATE SET
        device_id = EXCLUDED.device_id, connected_at = EXCLUDED.connected_at, open = EXCLUDED.open,
        ended_at = EXCLUDED.ended_at, inferred = EXCLUDED.inferred, noted_at = EXCLUDED.noted_at
    WHERE EXCLUDED.connected_at > known.connected_at
       OR EXCLUDED.connected_at = known.connected_at AND (
              known.open AND NOT EXCLUDED.open
           OR known.inferred AND NOT EXCLUDED.inferred
           OR NOT known.open AND NOT EXCLUDED.open AND known.inferred = EXCLUDED.inferred
              AND EXCLUDED.ended_at > known.ended_at);
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved > 0 THEN
        UPDATE devices SET online = NOT online
        WHERE id = ANY (locked)
          AND online <> EXISTS (SELECT FROM client_sessions WHERE device_id = devices.id AND open);
    END IF;
    RETURN moved;
END
$$;
COMMENT ON FUNCTION fleetgate_move_sessions(text[], bigint[], timestamptz[], timestamptz[], boolean[]) IS
    'Moves sessions forward, at most one move a client id, and lets the devices'' online flags follow; returns how many moved. Locks devices by id, then sessions by client id.';

CREATE FUNCTION fleetgate_write_news(
    device_ids bigint[], seen timestamptz[], bindings text[], reports jsonb[], violations jsonb[], turns integer[]
) RETURNS bigint
    LANGUAGE plpgsql SET search_path FROM CURRENT
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off
AS $$
DECLARE
    missing bigint[];
    outdated bigint;
BEGIN
    SELECT array_agg(news.device_id) FILTER (WHERE known.device_id IS NULL),
           count(*) FILTER (WHERE NOT fleetgate_is_newer_report(news.report, known.state -> news.binding))
    INTO missing, outdated
    FROM unnest(device_ids, bindings, reports) AS news (device_id, binding, report)
    LEFT JOIN device_state AS known USING (device_id);
    -- A device that is gone by now has no state.
    IF missing IS NOT NULL THEN
        INSERT INTO device_state (device_id)
        SELECT id FROM devices WHERE id = ANY (missing) ORDER BY id
        ON CONFLICT DO NOTHING;
    END IF;
    -- What another transaction wrote meanwhile is compared again: PostgreSQL waits for it and then
    -- evaluates these expressions on the row that it left. A row whose values would not change is not
    -- written.
    FOR this_turn IN 1 .. coalesce((SELECT max(turn) FROM unnest(turns) AS turn), 0) LOOP
        UPDATE device_state AS known SET
            last_seen = greatest(known.last_seen, news.seen),
            state = CASE
                WHEN news.report IS NOT NULL AND fleetgate_is_newer_report(news.report, known.state -> news.binding)
                THEN known.state || jsonb_build_object(news.binding, news.report) ELSE known.state END,
            last_violation = CASE
                WHEN fleetgate_is_newer_violation(news.violation, known.last_violation)
                THEN news.violation ELSE known.last_violation END
        FROM unnest(device_ids, seen, bindings, reports, violations, turns)
             AS news (device_id, seen, binding, report, violation, turn)
        WHERE news.turn = this_turn AND known.device_id = news.device_id
          AND (known.last_seen IS NULL OR news.seen > known.last_seen
               OR news.report IS NOT NULL AND fleetgate_is_newer_report(news.report, known.state -> news.binding)
               OR fleetgate_is_newer_violation(news.violation, known.last_violation));
    END LOOP;
    RETURN outdated;
END
$$;
