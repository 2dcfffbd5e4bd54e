-- What has to be done elsewhere after a commit, and its first kind: kick-outs.

-- The queue -----------------------------------------------------------------------------------

-- What a change asks of EMQX is written here by the transaction that makes the change, and src/work.rs
-- carries it out. Each kind of work has a worker of its own, so a kind that is stuck holds up no other.

CREATE TABLE work_queue (
    kind text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    payload jsonb NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz,
    due_at timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    last_error text,
    PRIMARY KEY (kind, key),
    CONSTRAINT work_queue_kick_out CHECK (kind <> 'kick_out' OR
        jsonb_typeof(payload -> 'reason') IS NOT DISTINCT FROM 'string'
        AND coalesce(jsonb_typeof(payload -> 'was_open'), 'boolean') = 'boolean'
        AND coalesce(jsonb_typeof(payload -> 'repeated'), 'boolean') = 'boolean')
);
CREATE INDEX work_queue_due ON work_queue (kind, due_at);

COMMENT ON TABLE work_queue IS
    'What has to be done elsewhere after a commit, one row for each kind and key. A row goes once it is done, or no longer needed; never because of its age.';
COMMENT ON COLUMN work_queue.kind IS 'What sort of work: kick_out.';
COMMENT ON COLUMN work_queue.key IS
    'What it is about. Of a kick-out the client id, which may be any text: EMQX accepts client ids that are no names, and the sweep finds them.';
COMMENT ON COLUMN work_queue.payload IS 'What else the worker has to know; each kind has its own members.';
COMMENT ON COLUMN work_queue.changed_at IS
    'When the newest change was made; grows with each one. A row is deleted only if no change came after the one that was carried out.';
COMMENT ON COLUMN work_queue.seen_at IS
    'When the newest change was first seen committed; NULL: not yet. A change may be made long before its transaction ends.';
COMMENT ON COLUMN work_queue.due_at IS
    'When a replica may take it. The replica that does moves it ahead, so that no other takes it meanwhile.';
COMMENT ON COLUMN work_queue.attempts IS 'How often it was taken since the newest change.';

CREATE FUNCTION fleetgate_queue_work(work_kind text, work_keys text[], work_payloads jsonb[]) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    -- In one order, so that two changes of the same keys don't wait for each other in a circle.
    INSERT INTO work_queue AS work (kind, key, payload)
    SELECT DISTINCT ON (item.key COLLATE "C") work_kind, item.key, item.payload
    FROM unnest(work_keys, work_payloads) AS item (key, payload)
    ORDER BY item.key COLLATE "C"
    ON CONFLICT (kind, key) DO UPDATE SET
        payload = work.payload || EXCLUDED.payload,
        changed_at = greatest(clock_timestamp(), work.changed_at + interval '1 microsecond'),
        seen_at = NULL,
        due_at = now(),
        attempts = 0,
        last_error = NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_queue_work(text, text[], jsonb[]) IS
    'Queues work of one kind, due at once. Where a key waits already, the newer change replaces the members of the payload that it names.';

-- Wakes the replicas. Deferred: the notice that makes a replica forget the device (V3) then always
-- comes first, so that no session is ended only to log in again with the rights that it had.
CREATE FUNCTION fleetgate_notify_work() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('fleetgate_work', NEW.kind);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_notify_work() IS 'Announces at the end of the transaction that there is work of a kind.';

CREATE CONSTRAINT TRIGGER work_queue_notify_new
    AFTER INSERT ON work_queue DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION fleetgate_notify_work();
CREATE CONSTRAINT TRIGGER work_queue_notify_again
    AFTER UPDATE OF changed_at ON work_queue DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.changed_at IS DISTINCT FROM NEW.changed_at)
    EXECUTE FUNCTION fleetgate_notify_work();

-- Kick-outs -----------------------------------------------------------------------------------

-- EMQX keeps a session's rights as they were at its login. So whatever takes a right away (in the
-- API, the command line or psql) queues a kick-out in the same transaction, one for each client id
-- that may have such a session, and src/kickouts.rs has EMQX carry it out. What only gives (a grant, a
-- binding, a further credential) queues none. Its payload:
--   device    the device whose rights changed, by the name that its sessions logged in with; null where
--             there was none
--   reason    what was taken away, in one word
--   was_open  whether the client id had a session then, as far as was known; absent: none was known. A
--             device that is removed takes its sessions' rows with it
--   repeated  it was carried out once, and is to be carried out again because a replica may have let the
--             client in meanwhile
-- Until the change is seen committed, the old right lets clients in.

CREATE FUNCTION fleetgate_kick_out(client_ids text[], device_name text, reason text) RETURNS void
    LANGUAGE sql SET search_path FROM CURRENT AS $$
    SELECT fleetgate_queue_work('kick_out', array_agg(client_id), array_agg(
        jsonb_build_object('device', fleetgate_kick_out.device_name, 'reason', fleetgate_kick_out.reason, 'repeated', false)
        || jsonb_strip_nulls(jsonb_build_object('was_open',
            (SELECT open OR inferred FROM client_sessions AS known WHERE known.client_id = id.client_id)))))
    FROM unnest(client_ids) AS id (client_id)
$$;
COMMENT ON FUNCTION fleetgate_kick_out(text[], text, text) IS 'Queues kick-outs of these client ids.';

-- Only a session that is open, or that a sweep took for ended a short while ago, may be connected. One
-- whose end was told is not, and a service may have very many of those.
CREATE FUNCTION fleetgate_client_ids(device bigint, own_client_id text) RETURNS text[]
    LANGUAGE sql STABLE SET search_path FROM CURRENT
    RETURN array_append(
        ARRAY(SELECT client_id FROM client_sessions
              WHERE device_id = device AND (open OR inferred AND noted_at > now() - interval '1 day')),
        own_client_id);
COMMENT ON FUNCTION fleetgate_client_ids(bigint, text) IS
    'Every client id that a device may be connected with: its own, those of open sessions, and those whose end was only inferred within a day.';

-- Devices -------------------------------------------------------------------------------------

CREATE FUNCTION fleetgate_kick_out_device() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    why text;
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM fleetgate_kick_out(fleetgate_client_ids(OLD.id, OLD.effective_client_id), OLD.name, 'device_removed');
        RETURN OLD;
    END IF;
    why := CASE
        WHEN OLD.enabled AND NOT NEW.enabled THEN 'device_disabled'
        WHEN OLD.name <> NEW.name THEN 'device_renamed'
        WHEN OLD.effective_client_id <> NEW.effective_client_id THEN 'client_id_changed'
        ELSE 'kind_changed' END;
    PERFORM fleetgate_kick_out(fleetgate_client_ids(OLD.id, OLD.effective_client_id), OLD.name, why);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_kick_out_device() IS 'Kicks out a device that changed, under the client ids that it had.';

-- Before, because afterwards its sessions are gone with it.
CREATE TRIGGER devices_kick_out_removed
    BEFORE DELETE ON devices FOR EACH ROW EXECUTE FUNCTION fleetgate_kick_out_device();
CREATE TRIGGER devices_kick_out_changed
    AFTER UPDATE OF name, client_id, kind, enabled ON devices FOR EACH ROW
    WHEN ((OLD.name, OLD.effective_client_id, OLD.kind) IS DISTINCT FROM (NEW.name, NEW.effective_client_id, NEW.kind)
        OR (OLD.enabled AND NOT NEW.enabled))
    EXECUTE FUNCTION fleetgate_kick_out_device();

-- Credentials and rights ----------------------------------------------------------------------

-- A device that is being removed is no longer found here; fleetgate_kick_out_device() has seen to it.
CREATE FUNCTION fleetgate_kick_out_owner(device bigint, reason text) RETURNS void
    LANGUAGE sql SET search_path FROM CURRENT AS $$
    SELECT fleetgate_kick_out(fleetgate_client_ids(owner.id, owner.effective_client_id), owner.name, reason)
    FROM devices AS owner WHERE owner.id = device
$$;
COMMENT ON FUNCTION fleetgate_kick_out_owner(bigint, text) IS 'Kicks out the device with this id.';

CREATE FUNCTION fleetgate_kick_out_for_credential() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM fleetgate_kick_out_owner(NEW.device_id, 'certificate_required');
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM fleetgate_kick_out_owner(OLD.device_id, 'credential_removed');
    ELSE
        PERFORM fleetgate_kick_out_owner(OLD.device_id,
            CASE WHEN OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL
                THEN 'credential_revoked' ELSE 'credential_changed' END);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_kick_out_for_credential() IS
    'Kicks out a device that can no longer log in as it did. Which credential a session used is not known: all of the device''s end, and whoever has a valid one logs in again.';

CREATE TRIGGER device_credentials_kick_out_required
    AFTER INSERT ON device_credentials FOR EACH ROW
    WHEN (NEW.certificate_required AND NEW.revoked_at IS NULL)
    EXECUTE FUNCTION fleetgate_kick_out_for_credential();
CREATE TRIGGER device_credentials_kick_out_removed
    AFTER DELETE ON device_credentials FOR EACH ROW WHEN (OLD.revoked_at IS NULL)
    EXECUTE FUNCTION fleetgate_kick_out_for_credential();
CREATE TRIGGER device_credentials_kick_out_changed
    AFTER UPDATE ON device_credentials FOR EACH ROW
    WHEN ((OLD.revoked_at IS NULL AND (NEW.revoked_at IS NOT NULL
            OR (OLD.device_id, OLD.kind, OLD.hash, OLD.common_name)
                IS DISTINCT FROM (NEW.device_id, NEW.kind, NEW.hash, NEW.common_name)
            OR coalesce(NEW.expires_at, 'infinity') < coalesce(OLD.expires_at, 'infinity')
            OR coalesce(NEW.not_before, '-infinity') > coalesce(OLD.not_before, '-infinity')))
        OR (NEW.revoked_at IS NULL AND NEW.certificate_required
            AND (OLD.revoked_at IS NOT NULL OR OLD.certificate_required IS NOT TRUE)))
    EXECUTE FUNCTION fleetgate_kick_out_for_credential();

-- At the end of the transaction, so that a right that was replaced by the same one ends nothing.
CREATE FUNCTION fleetgate_kick_out_for_binding() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF (OLD.state_topic IS NOT NULL AND NOT EXISTS (SELECT FROM topic_bindings AS binding
            WHERE binding.device_id = OLD.device_id AND binding.state_topic = OLD.state_topic))
        OR (OLD.command_topic IS NOT NULL AND NOT EXISTS (SELECT FROM topic_bindings AS binding
            WHERE binding.device_id = OLD.device_id AND binding.command_topic = OLD.command_topic))
    THEN
        PERFORM fleetgate_kick_out_owner(OLD.device_id, 'binding_removed');
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_kick_out_for_binding() IS
    'Kicks out a device that lost a topic, unless another of its bindings has it by the end of the transaction.';

CREATE CONSTRAINT TRIGGER topic_bindings_kick_out_removed
    AFTER DELETE ON topic_bindings DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION fleetgate_kick_out_for_binding();
CREATE CONSTRAINT TRIGGER topic_bindings_kick_out_changed
    AFTER UPDATE ON topic_bindings DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN ((OLD.device_id, OLD.state_topic, OLD.command_topic)
        IS DISTINCT FROM (NEW.device_id, NEW.state_topic, NEW.command_topic))
    EXECUTE FUNCTION fleetgate_kick_out_for_binding();

CREATE FUNCTION fleetgate_kick_out_for_grant() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM topic_grants AS other WHERE other.device_id = OLD.device_id
            AND other.action = OLD.action AND other.topic_filter = OLD.topic_filter)
    THEN
        PERFORM fleetgate_kick_out_owner(OLD.device_id, 'grant_removed');
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_kick_out_for_grant() IS
    'Kicks out a device that lost a grant, unless it has the same one again by the end of the transaction.';

CREATE CONSTRAINT TRIGGER topic_grants_kick_out_removed
    AFTER DELETE ON topic_grants DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION fleetgate_kick_out_for_grant();
CREATE CONSTRAINT TRIGGER topic_grants_kick_out_changed
    AFTER UPDATE ON topic_grants DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN ((OLD.device_id, OLD.action, OLD.topic_filter)
        IS DISTINCT FROM (NEW.device_id, NEW.action, NEW.topic_filter))
    EXECUTE FUNCTION fleetgate_kick_out_for_grant();

-- TRUNCATE ------------------------------------------------------------------------------------

CREATE FUNCTION fleetgate_kick_out_everybody() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM fleetgate_kick_out(fleetgate_client_ids(id, effective_client_id), name, 'truncated') FROM devices;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_kick_out_everybody() IS 'Kicks out everybody: somebody empties a table that allowed them.';

CREATE TRIGGER devices_kick_out_truncated
    BEFORE TRUNCATE ON devices FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_kick_out_everybody();
CREATE TRIGGER device_credentials_kick_out_truncated
    BEFORE TRUNCATE ON device_credentials FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_kick_out_everybody();
CREATE TRIGGER topic_bindings_kick_out_truncated
    BEFORE TRUNCATE ON topic_bindings FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_kick_out_everybody();
CREATE TRIGGER topic_grants_kick_out_truncated
    BEFORE TRUNCATE ON topic_grants FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_kick_out_everybody();

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

-- Kick-outs that were carried out -------------------------------------------------------------

-- A kick-out is queued until EMQX has ended the session, however long that takes. After that a
-- replica that had not heard of the change may have let the client in with the old right. So replicas tell
-- here what they have heard, and a kick-out that was carried out is kept until all of them have heard of its
-- change; where one has not, it is carried out once more when that replica can decide by old records no longer.

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
