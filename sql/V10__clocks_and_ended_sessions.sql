-- Timestamps that cannot be right, sessions that have ended, and whose a client id is.
--
-- Order comes from timestamps that brokers give, and a broker's clock can be wrong. A timestamp that
-- lies further ahead of the time at which it is noted (PostgreSQL's clock) than clocks may differ is
-- *untrusted*. It is kept as it came, because connected_at names the session in both its events, but
-- whatever has a trusted timestamp comes after it. Untrusted ones are ordered among themselves as they
-- came. So a clock that runs ahead freezes nothing once it is right again.
--
-- The order of sessions, of reports and of violations stands here and nowhere else: a batch is put in
-- order by the same functions that compare it with what is known.
--
-- What V6 and V4 have for this stays for replicas of the release before.

CREATE FUNCTION fleetgate_clock_tolerance() RETURNS interval
    LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN interval '5 minutes';
COMMENT ON FUNCTION fleetgate_clock_tolerance() IS
    'How far a broker''s clock may be ahead of PostgreSQL''s. Clocks that are kept by NTP differ by milliseconds, those of a machine that just woke up by minutes at most.';

CREATE FUNCTION fleetgate_is_ahead(stamp timestamptz, noted timestamptz) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(stamp > noted + fleetgate_clock_tolerance(), false);
COMMENT ON FUNCTION fleetgate_is_ahead(timestamptz, timestamptz) IS
    'Whether a timestamp is untrusted: further ahead of when it was noted than clocks may differ.';

CREATE TABLE untrusted_timestamps (
    device_id bigint PRIMARY KEY REFERENCES devices ON DELETE CASCADE,
    node text COLLATE "C",
    ahead interval NOT NULL,
    since timestamptz NOT NULL,
    noted_at timestamptz NOT NULL
);
COMMENT ON TABLE untrusted_timestamps IS
    'Devices whose events come with untrusted timestamps. A row goes when an event of the device comes with a trusted one, or with the sessions of its time.';
COMMENT ON COLUMN untrusted_timestamps.node IS 'The broker node that told the last of them, as it calls itself; NULL: it did not say.';
COMMENT ON COLUMN untrusted_timestamps.ahead IS 'How far ahead of PostgreSQL''s clock the last of them was.';
COMMENT ON COLUMN untrusted_timestamps.since IS
    'When the first of them was noted. After the tolerance without a trusted one, untrusted reports replace trusted ones: the clock is wrong for longer, and values must not stand still meanwhile.';
COMMENT ON COLUMN untrusted_timestamps.noted_at IS 'When the last of them was noted.';

-- Client ids ----------------------------------------------------------------------------------

CREATE FUNCTION fleetgate_owns_client_id(device_name text, own_client_id text, kind text, client_id text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN fleetgate_is_name(client_id)
        AND (client_id = own_client_id
             OR (kind = 'service' AND starts_with(client_id, device_name || ':')
                 AND fleetgate_is_name(substr(client_id, char_length(device_name) + 2))));
COMMENT ON FUNCTION fleetgate_owns_client_id(text, text, text, text) IS
    'Whether a client id is the device''s own. Whole, it is a name; a service s may also open s:anything, where anything is a name too. The rule of DeviceRecord::owns_client_id.';

-- Only a session that is open, or that a sweep took for ended a short while ago, may be connected. One
-- whose end was told is not, and a service may have very many of those.
CREATE OR REPLACE FUNCTION fleetgate_client_ids(device bigint, own_client_id text) RETURNS text[]
    LANGUAGE sql STABLE SET search_path FROM CURRENT
    RETURN array_append(
        ARRAY(SELECT client_id FROM client_sessions
              WHERE device_id = device AND (open OR inferred AND noted_at > now() - interval '1 day')),
        own_client_id);
COMMENT ON FUNCTION fleetgate_client_ids(bigint, text) IS
    'Every client id that a device may be connected with: its own, those of open sessions, and those whose end was only inferred within a day.';

-- How many sessions are open ------------------------------------------------------------------

-- Counted, because looking for an open session among all that a service ever had takes longer the more
-- there were. By triggers, so that whoever writes sessions keeps the count right. No index on "open":
-- it would cost every connect and disconnect an entry in each index (HOT updates).

ALTER TABLE devices ADD COLUMN open_sessions bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN devices.open_sessions IS 'How many of its sessions are open. Written by triggers of client_sessions only.';

CREATE FUNCTION fleetgate_count_open_sessions() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        UPDATE devices SET open_sessions = open_sessions + more.sessions, online = open_sessions + more.sessions > 0
        FROM (SELECT device_id, count(*) AS sessions FROM added WHERE open GROUP BY device_id) AS more
        WHERE id = more.device_id;
    ELSIF TG_OP = 'DELETE' THEN
        UPDATE devices SET open_sessions = open_sessions - less.sessions, online = open_sessions - less.sessions > 0
        FROM (SELECT device_id, count(*) AS sessions FROM removed WHERE open GROUP BY device_id) AS less
        WHERE id = less.device_id;
    ELSIF TG_OP = 'UPDATE' THEN
        UPDATE devices SET open_sessions = open_sessions + more.sessions, online = open_sessions + more.sessions > 0
        FROM (SELECT device_id, sum(sessions)::bigint AS sessions
              FROM (SELECT device_id, 1 AS sessions FROM added WHERE open
                    UNION ALL SELECT device_id, -1 FROM removed WHERE open) AS each
              GROUP BY device_id HAVING sum(sessions) <> 0) AS more
        WHERE id = more.device_id;
    ELSE
        UPDATE devices SET open_sessions = 0, online = false WHERE open_sessions <> 0 OR online;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_count_open_sessions() IS
    'Keeps devices.open_sessions and devices.online in step with client_sessions.';

CREATE TRIGGER client_sessions_count_added
    AFTER INSERT ON client_sessions REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_count_open_sessions();
CREATE TRIGGER client_sessions_count_changed
    AFTER UPDATE ON client_sessions REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_count_open_sessions();
CREATE TRIGGER client_sessions_count_removed
    AFTER DELETE ON client_sessions REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_count_open_sessions();
CREATE TRIGGER client_sessions_count_truncated
    AFTER TRUNCATE ON client_sessions
    FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_count_open_sessions();

CREATE FUNCTION fleetgate_recount_open_sessions() RETURNS bigint
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    device bigint;
    mended bigint := 0;
    written bigint;
BEGIN
    FOR device IN
        SELECT id FROM devices
        LEFT JOIN (SELECT device_id, count(*) AS sessions FROM client_sessions WHERE open GROUP BY device_id) AS counted
            ON device_id = id
        WHERE open_sessions <> coalesce(sessions, 0) OR online <> (coalesce(sessions, 0) > 0)
        ORDER BY id
    LOOP
        -- Counted again once nobody changes the device's sessions.
        PERFORM FROM devices WHERE id = device FOR NO KEY UPDATE;
        UPDATE devices SET open_sessions = counted.sessions, online = counted.sessions > 0
        FROM (SELECT count(*) AS sessions FROM client_sessions WHERE device_id = device AND open) AS counted
        WHERE id = device AND (open_sessions <> counted.sessions OR online <> (counted.sessions > 0));
        GET DIAGNOSTICS written = ROW_COUNT;
        mended := mended + written;
    END LOOP;
    RETURN mended;
END
$$;
COMMENT ON FUNCTION fleetgate_recount_open_sessions() IS
    'Counts open sessions anew where the count is wrong, as after a restore of data alone; returns for how many devices.';

DO $$ BEGIN PERFORM fleetgate_recount_open_sessions(); END $$;

-- The order of sessions -----------------------------------------------------------------------

CREATE TYPE fleetgate_session_order AS (
    trusted boolean, connected_at timestamptz, stage integer, end_trusted boolean, ended_at timestamptz);
COMMENT ON TYPE fleetgate_session_order IS
    'Where a session stands among those of its client id. Within one session an inferred end comes before "open", and that before an end that was told.';

CREATE FUNCTION fleetgate_session_order(connected_at timestamptz, ended_at timestamptz, inferred boolean, noted timestamptz)
    RETURNS fleetgate_session_order
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN ROW(NOT fleetgate_is_ahead(connected_at, noted), connected_at,
               CASE WHEN ended_at IS NULL THEN 1 WHEN inferred THEN 0 ELSE 2 END,
               NOT fleetgate_is_ahead(ended_at, noted), ended_at)::fleetgate_session_order;
COMMENT ON FUNCTION fleetgate_session_order(timestamptz, timestamptz, boolean, timestamptz) IS
    'The place of a session that was noted at a time. The place of a row: noted at its noted_at, or now if that lies ahead.';

CREATE FUNCTION fleetgate_write_sessions(
    client_ids text[], device_ids bigint[], began timestamptz[], ended timestamptz[], inferences boolean[],
    owned boolean[], keep interval, listed_before timestamptz, noted timestamptz DEFAULT NULL
) RETURNS bigint[]
    LANGUAGE plpgsql SET search_path FROM CURRENT
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off
AS $$
DECLARE
    locked bigint[];
    moved bigint;
    closed bigint := 0;
    too_old bigint;
BEGIN
    IF cardinality(client_ids) = 0 THEN
        RETURN ARRAY[0, 0];
    END IF;
    -- The devices of the moves, and those that own a session which a move may take over.
    locked := ARRAY(
        SELECT id FROM devices
        WHERE id IN (SELECT unnest(device_ids)
                     UNION SELECT device_id FROM client_sessions WHERE client_id = ANY (client_ids))
        ORDER BY id FOR NO KEY UPDATE);
    noted := coalesce(noted, clock_timestamp());
    -- The last move of each client id, forward along the order only. A device that is gone by now has no
    -- sessions. Two things besides the order move a row: while a broker's clock is ahead, a row that was
    -- not noted for longer than the tolerance follows it; and what the broker lists as connected
    -- replaces what is noted as ended, unless that was noted since the listing began or is the told end
    -- of the very session.
    INSERT INTO client_sessions AS known
        (client_id, device_id, connected_at, open, ended_at, inferred, noted_at)
    SELECT DISTINCT ON (move.client_id COLLATE "C")
           move.client_id, move.device_id, move.began, move.ended IS NULL, move.ended,
           move.inferred AND move.ended IS NOT NULL, noted
    FROM unnest(client_ids, device_ids, began, ended, inferences, owned)
         AS move (client_id, device_id, began, ended, inferred, owned)
    WHERE move.device_id = ANY (locked) AND move.owned
      AND coalesce(coalesce(move.ended, move.began) >= noted - keep, true)
    ORDER BY move.client_id COLLATE "C",
             fleetgate_session_order(move.began, move.ended, move.inferred, noted) DESC, move.device_id
    ON CONFLICT (client_id) DO UPDATE SET
        device_id = EXCLUDED.device_id, connected_at = EXCLUDED.connected_at, open = EXCLUDED.open,
        ended_at = EXCLUDED.ended_at, inferred = EXCLUDED.inferred, noted_at = EXCLUDED.noted_at
    WHERE fleetgate_session_order(EXCLUDED.connected_at, EXCLUDED.ended_at, EXCLUDED.inferred, noted)
          > fleetgate_session_order(known.connected_at, known.ended_at, known.inferred, least(known.noted_at, noted))
       OR fleetgate_is_ahead(EXCLUDED.connected_at, noted)
          AND NOT fleetgate_is_ahead(known.connected_at, least(known.noted_at, noted))
          AND known.noted_at < noted - fleetgate_clock_tolerance()
       OR known.noted_at < listed_before
          AND (known.device_id <> EXCLUDED.device_id
               OR NOT known.open
                  AND NOT (known.connected_at = EXCLUDED.connected_at AND NOT known.inferred
                           AND NOT fleetgate_is_ahead(known.connected_at, least(known.noted_at, noted))));
    GET DIAGNOSTICS moved = ROW_COUNT;
    -- An end of long ago must not bring a session back that is no longer kept, and one under a client
    -- id that is not the device's own must not touch another's: they close the very session they name,
    -- if it is this device's.
    too_old := (SELECT count(*) FROM unnest(began, ended) AS move (began, ended)
                WHERE coalesce(move.ended, move.began) < noted - keep);
    IF too_old > 0 OR false = ANY (owned) THEN
        UPDATE client_sessions AS known
        SET open = false, ended_at = move.ended, inferred = false, noted_at = noted
        FROM unnest(client_ids, device_ids, began, ended, owned)
             AS move (client_id, device_id, began, ended, owned)
        WHERE (NOT move.owned OR move.ended < noted - keep) AND move.ended IS NOT NULL
          AND known.client_id = move.client_id AND known.device_id = move.device_id
          AND known.connected_at = move.began AND (known.open OR known.inferred);
        GET DIAGNOSTICS closed = ROW_COUNT;
    END IF;
    RETURN ARRAY[moved + closed, greatest(too_old - closed, 0)];
END
$$;
COMMENT ON FUNCTION fleetgate_write_sessions(text[], bigint[], timestamptz[], timestamptz[], boolean[], boolean[], interval, timestamptz, timestamptz) IS
    'Moves sessions forward. owned: whether the client id is the device''s own. keep: events older than this open nothing; NULL: all are young enough. listed_before: these sessions are what a broker lists, and when the reading of its list began; NULL: they are events. noted: now, unless a test says otherwise. Returns how many sessions moved, and how many moves were too old. Locks devices by id, then sessions by client id.';

-- The order of reports and violations ---------------------------------------------------------

-- An entry's "at" is never later than it was noted. One that came with a later timestamp has that as
-- "stamp", which orders it, and "untrusted": true if it was further ahead than clocks may differ.

COMMENT ON COLUMN device_state.last_seen IS
    'When the device was last heard, by the broker''s clock, but never later than it was noted. What the broker concludes or says for it (a keepalive that ran out, a take-over, a will) is not hearing it.';
COMMENT ON COLUMN device_state.state IS
    'Last known values by binding name: {"value", "at", "id"}, at in ms since 1970 by the broker''s clock, id that of the message. No "value": an empty payload has cleared it, and the entry stays to keep late reports out. at is never later than it was noted: "stamp" is then what the broker said, and "untrusted" is true if that was further ahead than clocks may differ.';
COMMENT ON COLUMN device_state.last_violation IS
    'The newest report that broke its capability''s schema: {"at", "binding", "pointer", "message"}, and "stamp" and "untrusted" as in state. The report itself is stored nowhere.';
COMMENT ON COLUMN client_sessions.connected_at IS
    'When the session began, as the broker said: it names the session. Shown no later than noted_at. A row moves forward along fleetgate_session_order().';
COMMENT ON COLUMN client_sessions.ended_at IS
    'When it ended, as the broker said; NULL while it is open. Shown no later than noted_at.';
COMMENT ON COLUMN client_sessions.noted_at IS
    'When the row was last written, by PostgreSQL''s clock. A sweep leaves alone what was written after it began to read, and a timestamp further ahead of this than clocks may differ is untrusted.';

-- STABLE, as to_jsonb() is: PostgreSQL puts a function's body in place of a call only if the function does
-- not promise more than its body keeps, and a call costs ten times as much.

CREATE FUNCTION fleetgate_noted(entry jsonb, noted_ms bigint) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE
        WHEN (entry -> 'at') > to_jsonb(noted_ms)
        THEN entry || jsonb_build_object('at', noted_ms, 'stamp', entry -> 'at')
             || CASE WHEN (entry -> 'at') > to_jsonb(noted_ms + (extract(epoch FROM fleetgate_clock_tolerance()) * 1000)::bigint)
                THEN '{"untrusted": true}'::jsonb ELSE '{}'::jsonb END
        ELSE entry END;
COMMENT ON FUNCTION fleetgate_noted(jsonb, bigint) IS 'An entry as it is stored when it is noted at a time (ms since 1970).';

CREATE TYPE fleetgate_report_order AS (trusted boolean, at jsonb, id text COLLATE "C");
COMMENT ON TYPE fleetgate_report_order IS 'Where a report stands among those of its binding.';

-- Comparing jsonb cannot fail, whatever somebody may have written by hand; an entry without time comes
-- before any other.
CREATE FUNCTION fleetgate_is_trusted_entry(entry jsonb, noted_ms bigint) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(NOT entry ? 'untrusted'
        AND coalesce(entry -> 'stamp', entry -> 'at') <= to_jsonb(noted_ms + (extract(epoch FROM fleetgate_clock_tolerance()) * 1000)::bigint),
        true);
COMMENT ON FUNCTION fleetgate_is_trusted_entry(jsonb, bigint) IS
    'Whether an entry''s timestamp is trusted now. One that lies ahead of now is not, whatever it says.';

CREATE FUNCTION fleetgate_report_order(report jsonb, noted_ms bigint) RETURNS fleetgate_report_order
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN ROW(fleetgate_is_trusted_entry(report, noted_ms), coalesce(report -> 'stamp', report -> 'at', 'null'),
               coalesce(report ->> 'id', ''))::fleetgate_report_order;
COMMENT ON FUNCTION fleetgate_report_order(jsonb, bigint) IS
    'The place of a stored report: trusted ones last, then by time, then by message id in bytes.';

CREATE FUNCTION fleetgate_replaces_report(report jsonb, known jsonb, noted_ms bigint, clock_is_wrong boolean) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN report IS NOT NULL AND (known IS NULL
        OR fleetgate_report_order(report, noted_ms) > fleetgate_report_order(known, noted_ms)
        OR clock_is_wrong AND fleetgate_is_trusted_entry(known, noted_ms) AND NOT fleetgate_is_trusted_entry(report, noted_ms));
COMMENT ON FUNCTION fleetgate_replaces_report(jsonb, jsonb, bigint, boolean) IS
    'Whether a report, as fleetgate_noted() makes it, takes the place of the one that is known. clock_is_wrong: nothing trusted has come of the device for longer than the tolerance, only untrusted things.';

CREATE TYPE fleetgate_violation_order AS (
    trusted boolean, at jsonb, binding text COLLATE "C", pointer text COLLATE "C", message text COLLATE "C");
COMMENT ON TYPE fleetgate_violation_order IS
    'Where a violation stands among those of its device; those of one time have an order too, so that it does not matter which is heard first.';

CREATE FUNCTION fleetgate_violation_order(violation jsonb, noted_ms bigint) RETURNS fleetgate_violation_order
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN ROW(fleetgate_is_trusted_entry(violation, noted_ms), coalesce(violation -> 'stamp', violation -> 'at', 'null'),
               coalesce(violation ->> 'binding', ''), coalesce(violation ->> 'pointer', ''),
               coalesce(violation ->> 'message', ''))::fleetgate_violation_order;
COMMENT ON FUNCTION fleetgate_violation_order(jsonb, bigint) IS 'The place of a stored violation.';

CREATE FUNCTION fleetgate_replaces_violation(violation jsonb, known jsonb, noted_ms bigint, clock_is_wrong boolean) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN violation IS NOT NULL AND (known IS NULL
        OR fleetgate_violation_order(violation, noted_ms) > fleetgate_violation_order(known, noted_ms)
        OR clock_is_wrong AND fleetgate_is_trusted_entry(known, noted_ms) AND NOT fleetgate_is_trusted_entry(violation, noted_ms));
COMMENT ON FUNCTION fleetgate_replaces_violation(jsonb, jsonb, bigint, boolean) IS
    'Whether a violation takes the place of the one that is known, as fleetgate_replaces_report().';

CREATE FUNCTION fleetgate_note_clocks(device_ids bigint[], stamps timestamptz[], nodes text[], noted timestamptz) RETURNS void
    LANGUAGE sql SET search_path FROM CURRENT AS $$
    INSERT INTO untrusted_timestamps AS known (device_id, node, ahead, since, noted_at)
    SELECT DISTINCT ON (id) id, told.node, told.stamp - noted, noted, noted
    FROM unnest(device_ids, stamps, nodes) AS told (device_id, stamp, node)
    JOIN devices ON id = told.device_id
    WHERE fleetgate_is_ahead(told.stamp, noted)
    ORDER BY id, told.stamp DESC
    ON CONFLICT (device_id) DO UPDATE SET node = EXCLUDED.node, ahead = EXCLUDED.ahead, noted_at = EXCLUDED.noted_at;
    DELETE FROM untrusted_timestamps AS known
    USING unnest(device_ids, stamps) AS told (device_id, stamp)
    WHERE known.device_id = told.device_id AND NOT fleetgate_is_ahead(told.stamp, noted)
$$;
COMMENT ON FUNCTION fleetgate_note_clocks(bigint[], timestamptz[], text[], timestamptz) IS
    'Notes which devices'' events come with untrusted timestamps, and forgets those that have come with a trusted one.';

CREATE FUNCTION fleetgate_write_reports(
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
    -- The newest of each device and binding; of each device a turn for each binding, because PostgreSQL
    -- writes a row once a statement.
    ids bigint[];
    heard timestamptz[];
    names text[];
    newest jsonb[];
    broken jsonb[];
    turns bigint[];
    missing bigint[];
    outdated bigint;
BEGIN
    IF cardinality(device_ids) = 0 THEN
        RETURN ARRAY[0, 0];
    END IF;
    noted := coalesce(noted, clock_timestamp());
    noted_ms := floor(extract(epoch FROM noted) * 1000);
    untrusted := (SELECT count(*) FROM unnest(stamps) AS stamp WHERE fleetgate_is_ahead(stamp, noted));
    SELECT array_agg(device_id), array_agg(last_heard), array_agg(binding), array_agg(report), array_agg(violation), array_agg(turn)
    INTO ids, heard, names, newest, broken, turns
    FROM (SELECT device_id, binding, report, violation,
                 max(last_heard) OVER device AS last_heard,
                 row_number() OVER (device ORDER BY binding NULLS LAST) AS turn
          FROM (SELECT device_id, binding, max(CASE WHEN news.seen > noted THEN noted ELSE news.seen END) AS last_heard,
                       (array_agg(report ORDER BY fleetgate_report_order(report, noted_ms) DESC))[1] AS report,
                       (array_agg(violation ORDER BY fleetgate_violation_order(violation, noted_ms) DESC)
                        FILTER (WHERE violation IS NOT NULL))[1] AS violation
                FROM (SELECT each.device_id, each.seen, each.binding, fleetgate_noted(each.report, noted_ms) AS report,
                             fleetgate_noted(each.violation, noted_ms) AS violation
                      FROM unnest(device_ids, seen, bindings, reports, violations)
                           AS each (device_id, seen, binding, report, violation)) AS news
                GROUP BY device_id, binding) AS merged
          WINDOW device AS (PARTITION BY device_id)) AS item
    WHERE binding IS NOT NULL OR turn = 1 OR violation IS NOT NULL;
    SELECT array_agg(news.device_id) FILTER (WHERE known.device_id IS NULL) INTO missing
    FROM unnest(ids) AS news (device_id)
    LEFT JOIN device_state AS known USING (device_id);
    -- A device that is gone by now has no state.
    IF missing IS NOT NULL THEN
        INSERT INTO device_state (device_id)
        SELECT id FROM devices WHERE id = ANY (missing) ORDER BY id
        ON CONFLICT DO NOTHING;
    END IF;
    IF untrusted > 0 OR EXISTS (SELECT FROM untrusted_timestamps) THEN
        doubted := ARRAY(SELECT device_id FROM untrusted_timestamps
                         WHERE device_id = ANY (device_ids) AND since < noted - fleetgate_clock_tolerance());
        PERFORM fleetgate_note_clocks(device_ids, stamps, nodes, noted);
    END IF;
    outdated := (
        SELECT count(*) FROM unnest(ids, names, newest) AS news (device_id, binding, report)
        JOIN device_state AS known USING (device_id)
        WHERE news.report IS NOT NULL
          AND NOT fleetgate_replaces_report(news.report, known.state -> news.binding, noted_ms, device_id = ANY (doubted)));
    -- What another transaction wrote meanwhile is compared again: PostgreSQL waits for it and then
    -- evaluates these expressions on the row that it left. A row whose values would not change is not
    -- written. A last_seen that lies ahead of now was noted by a clock that was wrong itself.
    FOR this_turn IN 1 .. coalesce((SELECT max(turn) FROM unnest(turns) AS turn), 0) LOOP
        UPDATE device_state AS known SET
            last_seen = greatest(CASE WHEN known.last_seen > noted THEN noted ELSE known.last_seen END, news.last_heard),
            state = CASE
                WHEN fleetgate_replaces_report(news.report, known.state -> news.binding, noted_ms, known.device_id = ANY (doubted))
                THEN known.state || jsonb_build_object(news.binding, news.report) ELSE known.state END,
            last_violation = CASE
                WHEN fleetgate_replaces_violation(news.violation, known.last_violation, noted_ms, known.device_id = ANY (doubted))
                THEN news.violation ELSE known.last_violation END
        FROM unnest(ids, heard, names, newest, broken, turns)
             AS news (device_id, last_heard, binding, report, violation, turn)
        WHERE news.turn = this_turn AND known.device_id = news.device_id
          AND (known.last_seen IS NULL AND news.last_heard IS NOT NULL OR news.last_heard > known.last_seen
               OR known.last_seen > noted
               OR fleetgate_replaces_report(news.report, known.state -> news.binding, noted_ms, known.device_id = ANY (doubted))
               OR fleetgate_replaces_violation(news.violation, known.last_violation, noted_ms, known.device_id = ANY (doubted)));
    END LOOP;
    RETURN ARRAY[outdated, untrusted];
END
$$;
COMMENT ON FUNCTION fleetgate_write_reports(bigint[], timestamptz[], timestamptz[], text[], text[], jsonb[], jsonb[], timestamptz) IS
    'Writes what is newest of each device: one element an event and binding. stamps: the latest timestamp of the event. seen: when the device was heard; NULL: this was not heard from it. nodes: the broker node. noted: now, unless a test says otherwise. Returns how many reports were not newer than what is known, and how many timestamps are untrusted. Locks device_state by device id.';

-- What an earlier release stored with timestamps that lie ahead counts as untrusted from now on.
UPDATE device_state SET
    last_seen = CASE WHEN last_seen > now() THEN now() ELSE last_seen END,
    state = (SELECT jsonb_object_agg(key, fleetgate_noted(value, floor(extract(epoch FROM now()) * 1000)::bigint)) FROM jsonb_each(state)),
    last_violation = fleetgate_noted(last_violation, floor(extract(epoch FROM now()) * 1000)::bigint)
WHERE last_seen > now()
   OR (last_violation -> 'at') > to_jsonb(floor(extract(epoch FROM now()) * 1000)::bigint)
   OR EXISTS (SELECT FROM jsonb_each(state) WHERE (value -> 'at') > to_jsonb(floor(extract(epoch FROM now()) * 1000)::bigint));

-- Sessions that have ended --------------------------------------------------------------------

CREATE TABLE session_pruning (
    only_row boolean PRIMARY KEY DEFAULT true,
    reached text COLLATE "C" NOT NULL DEFAULT '',
    began_at timestamptz NOT NULL DEFAULT '-infinity',
    CONSTRAINT session_pruning_only_row CHECK (only_row)
);
INSERT INTO session_pruning DEFAULT VALUES;
COMMENT ON TABLE session_pruning IS
    'How far the removal of sessions that ended long ago has come; it walks through client_sessions by client id, a step a statement, at most one round an hour.';
COMMENT ON COLUMN session_pruning.reached IS 'The last client id of the round''s last step; empty between two rounds.';
COMMENT ON COLUMN session_pruning.began_at IS 'When the round began.';

CREATE FUNCTION fleetgate_prune_sessions(keep interval, step integer) RETURNS bigint[]
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    place session_pruning;
    looked_at bigint;
    last text;
    ended text[];
    pruned bigint := 0;
BEGIN
    SELECT * INTO place FROM session_pruning FOR UPDATE SKIP LOCKED;
    IF NOT FOUND OR place.reached = '' AND place.began_at > now() - interval '1 hour' THEN
        RETURN ARRAY[0, 0];
    END IF;
    SELECT count(*), max(client_id), array_agg(client_id) FILTER (
        WHERE NOT open AND least(greatest(connected_at, ended_at), noted_at) < now() - keep)
    INTO looked_at, last, ended
    FROM (SELECT * FROM client_sessions WHERE client_id > place.reached ORDER BY client_id LIMIT step) AS page;
    IF ended IS NOT NULL THEN
        DELETE FROM client_sessions WHERE client_id = ANY (ended)
            AND NOT open AND least(greatest(connected_at, ended_at), noted_at) < now() - keep;
        GET DIAGNOSTICS pruned = ROW_COUNT;
    END IF;
    UPDATE session_pruning SET
        reached = CASE WHEN looked_at < step THEN '' ELSE last END,
        began_at = CASE WHEN place.reached = '' THEN now() ELSE place.began_at END;
    IF looked_at < step THEN
        PERFORM fleetgate_recount_open_sessions();
        DELETE FROM untrusted_timestamps WHERE noted_at < now() - keep;
    END IF;
    RETURN ARRAY[pruned, CASE WHEN looked_at < step THEN 0 ELSE 1 END];
END
$$;
COMMENT ON FUNCTION fleetgate_prune_sessions(interval, integer) IS
    'One step of the removal of sessions that ended longer ago than is kept. No event can bring them back: theirs are older still, and too old. Returns how many went, and 1 if the round goes on.';
