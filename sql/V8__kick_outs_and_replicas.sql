-- Kick-outs that are never given up, and repeated where a replica may have let the client in again.
--
-- A row of session_evictions waits until EMQX has ended the session, however long that takes. After that a
-- replica that had not heard of the change may have let the client in with the old right. So replicas tell
-- here what they have heard, and a kick-out that was carried out is kept until all of them have heard of its
-- change; where one has not, it is carried out once more when that replica can decide by old records no longer.

-- Replicas ------------------------------------------------------------------------------------

CREATE TABLE replicas (
    id text COLLATE "C" PRIMARY KEY,
    started_at timestamptz NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    listening boolean NOT NULL,
    heard_until timestamptz,
    gap_from timestamptz,
    gap_until timestamptz,
    bound interval NOT NULL,
    CONSTRAINT replicas_gap CHECK ((gap_from IS NULL) = (gap_until IS NULL))
) WITH (fillfactor = 50);
COMMENT ON TABLE replicas IS
    'The running `fleetgate serve`, one row each, written every two seconds. A graceful stop deletes the row; that of a replica that died goes once it cannot have let anybody in any more.';
COMMENT ON COLUMN replicas.id IS 'Drawn at each start.';
COMMENT ON COLUMN replicas.noted_at IS
    'When the row was written. It goes the way that records are loaded: a replica that can load can write it.';
COMMENT ON COLUMN replicas.heard_until IS
    'What was committed up to then has been heard there, except in the gap. NULL: nothing yet.';
COMMENT ON COLUMN replicas.gap_from IS
    'The newest stretch in which changes may have been missed there, or heard late: its start, which is the last proof before.';
COMMENT ON COLUMN replicas.bound IS
    'How long after a change a record there may still decide, whatever fails (cache.max_staleness, at least 4 s).';

CREATE FUNCTION fleetgate_cannot_be_stale(replica replicas, changed_at timestamptz, seen_at timestamptz) RETURNS boolean
    LANGUAGE sql STABLE SET search_path FROM CURRENT
    RETURN coalesce(
        -- It began with nothing in memory.
        seen_at < replica.started_at
        -- It was cut off for so long that nothing of before could decide.
        OR changed_at > replica.noted_at + replica.bound + interval '10 seconds'
        OR seen_at <= replica.heard_until
           AND (replica.gap_until IS NULL OR changed_at > replica.gap_until OR seen_at < replica.gap_from),
        false);
COMMENT ON FUNCTION fleetgate_cannot_be_stale(replicas, timestamptz, timestamptz) IS
    'Whether a replica heard in time of a change that was made at one time and seen committed at another, or had nothing in memory that it could contradict.';

-- Kick-outs -----------------------------------------------------------------------------------

ALTER TABLE session_evictions ADD COLUMN repeated boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN session_evictions.repeated IS
    'It was carried out once, and is to be carried out again because a replica may have let the client in meanwhile.';
COMMENT ON TABLE session_evictions IS
    'Client ids whose session EMQX has to end, one row each. A row goes once EMQX has answered, or once the session is known to have ended by itself; never because of its age.';

ALTER TABLE session_evictions ADD COLUMN seen_at timestamptz, ADD COLUMN was_open boolean;
COMMENT ON COLUMN session_evictions.seen_at IS
    'When the newest change was first seen committed; NULL: not yet. A change may be made long before its transaction ends, and until then the old right lets clients in.';
COMMENT ON COLUMN session_evictions.was_open IS
    'Whether the client id had a session then, as far as was known; NULL: none was known. A device that is removed takes its sessions'' rows with it.';

CREATE TABLE kick_outs_to_confirm (
    client_id text COLLATE "C" PRIMARY KEY,
    device_name text COLLATE "C",
    reason text COLLATE "C" NOT NULL,
    changed_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    kicked_by text COLLATE "C" NOT NULL
);
COMMENT ON TABLE kick_outs_to_confirm IS
    'Kick-outs that were carried out while other replicas ran, until each of those has heard of the change. Seconds, unless one lags.';
COMMENT ON COLUMN kick_outs_to_confirm.changed_at IS 'When the change was made; of several, the oldest.';
COMMENT ON COLUMN kick_outs_to_confirm.seen_at IS
    'When it was seen committed: a change may be made long before its transaction ends. Of several, the newest.';
COMMENT ON COLUMN kick_outs_to_confirm.kicked_by IS
    'The replica that did it. It forgot the device before it asked EMQX, so it cannot have let the client in.';

CREATE OR REPLACE FUNCTION fleetgate_evict(client_ids text[], device_name text, reason text) RETURNS void
    LANGUAGE sql SET search_path FROM CURRENT AS $$
    -- In one order, so that two changes of the same devices don't wait for each other in a circle.
    INSERT INTO session_evictions AS eviction (client_id, device_name, reason, was_open)
    SELECT DISTINCT ON (id COLLATE "C") id, fleetgate_evict.device_name, fleetgate_evict.reason,
           -- The sweep names clients that the broker lists as connected.
           fleetgate_evict.reason = 'swept'
           OR (SELECT open OR inferred FROM client_sessions AS known WHERE known.client_id = id)
    FROM unnest(client_ids) AS id
    ORDER BY id COLLATE "C"
    ON CONFLICT (client_id) DO UPDATE SET
        device_name = EXCLUDED.device_name,
        reason = EXCLUDED.reason,
        changed_at = greatest(clock_timestamp(), eviction.changed_at + interval '1 microsecond'),
        attempts = 0,
        next_attempt_at = now(),
        last_error = NULL,
        repeated = false,
        seen_at = NULL,
        was_open = coalesce(EXCLUDED.was_open, eviction.was_open)
$$;
