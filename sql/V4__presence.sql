-- Presence: the sessions of each device, as the broker tells them.
--
-- Order comes from timestamps that brokers give, and a broker's clock can be wrong. A timestamp that
-- lies further ahead of the time at which it is noted (PostgreSQL's clock) than clocks may differ is
-- *untrusted*. It is kept as it came, because connected_at names the session in both its events, but
-- whatever has a trusted timestamp comes after it. Untrusted ones are ordered among themselves as they
-- came. So a clock that runs ahead freezes nothing once it is right again.
--
-- The order of sessions stands here, that of reports and of violations in V5, and nowhere else: a batch is
-- put in order by the same functions that compare it with what is known.

-- Clocks ---------------------------------------------------------------------------------------

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

-- Sessions -------------------------------------------------------------------------------------

CREATE TABLE client_sessions (
    client_id text COLLATE "C" PRIMARY KEY,
    device_id bigint NOT NULL REFERENCES devices ON DELETE CASCADE,
    connected_at timestamptz NOT NULL,
    open boolean NOT NULL,
    ended_at timestamptz,
    noted_at timestamptz NOT NULL DEFAULT now(),
    inferred boolean NOT NULL DEFAULT false,
    CONSTRAINT client_sessions_client_id_form CHECK (fleetgate_is_name(client_id)),
    CONSTRAINT client_sessions_timestamps CHECK (fleetgate_is_valid_timestamp(connected_at) AND fleetgate_is_valid_timestamp(ended_at)),
    CONSTRAINT client_sessions_end CHECK (open = (ended_at IS NULL)),
    CONSTRAINT client_sessions_inferred CHECK (NOT (inferred AND open))
) WITH (fillfactor = 70);
CREATE INDEX client_sessions_by_device ON client_sessions (device_id);

COMMENT ON TABLE client_sessions IS
    'The newest session known of each client id. A device is online while any of its sessions is open. Only columns that stay the same are indexed (HOT updates).';
COMMENT ON COLUMN client_sessions.connected_at IS
    'When the session began, as the broker said: it names the session. Shown no later than noted_at. A row moves forward along fleetgate_session_order().';
COMMENT ON COLUMN client_sessions.ended_at IS
    'When it ended, as the broker said; NULL while it is open. Shown no later than noted_at.';
COMMENT ON COLUMN client_sessions.noted_at IS
    'When the row was last written, by PostgreSQL''s clock. A sweep leaves alone what was written after it began to read, and a timestamp further ahead of this than clocks may differ is untrusted.';
COMMENT ON COLUMN client_sessions.inferred IS
    'The end was concluded by a sweep, not told by an event. Only such an end can be taken back, by an event of the same session.';

-- How many sessions are open ------------------------------------------------------------------

-- Counted, because looking for an open session among all that a service ever had takes longer the more
-- there were. By triggers, so that whoever writes sessions keeps the count right. No index on "open":
-- it would cost every connect and disconnect an entry in each index (HOT updates).

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

-- Sweeps --------------------------------------------------------------------------------------

CREATE TABLE presence_sweeps (
    only_row boolean PRIMARY KEY DEFAULT true,
    finished_at timestamptz NOT NULL,
    CONSTRAINT presence_sweeps_only_row CHECK (only_row)
);
COMMENT ON TABLE presence_sweeps IS
    'When presence was last compared with EMQX''s list of clients, so that several replicas don''t do it one after the other.';

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
