-- Sessions to be ended, because what allowed them is gone.
--
-- EMQX keeps a session's rights as they were at its login. So whatever takes a right away (in the
-- API, the command line or psql) leaves a row here in the same transaction, one for each client id
-- that may have such a session, and src/evictions.rs has EMQX end it. What only gives (a grant, a
-- binding, a further credential) leaves none.

CREATE TABLE session_evictions (
    client_id text COLLATE "C" PRIMARY KEY,
    device_name text COLLATE "C",
    reason text COLLATE "C" NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    last_error text
);
CREATE INDEX session_evictions_due ON session_evictions (next_attempt_at);

COMMENT ON TABLE session_evictions IS
    'Client ids whose session EMQX has to end, one row each; gone once EMQX has answered. Rows older than a day are dropped.';
COMMENT ON COLUMN session_evictions.client_id IS
    'Any text: EMQX accepts client ids that are no names, and the sweep finds them.';
COMMENT ON COLUMN session_evictions.device_name IS
    'The device whose rights changed, by the name that its sessions logged in with; NULL where there was none.';
COMMENT ON COLUMN session_evictions.reason IS 'What was taken away, in one word.';
COMMENT ON COLUMN session_evictions.changed_at IS
    'When the newest change was made; grows with each one. A row is deleted only if no change came after the one that was carried out.';
COMMENT ON COLUMN session_evictions.next_attempt_at IS
    'When a replica may take it. The replica that does moves it ahead, so that no other takes it meanwhile.';

CREATE FUNCTION fleetgate_evict(client_ids text[], device_name text, reason text) RETURNS void
    LANGUAGE sql SET search_path FROM CURRENT AS $$
    -- In one order, so that two changes of the same devices don't wait for each other in a circle.
    INSERT INTO session_evictions AS eviction (client_id, device_name, reason)
    SELECT DISTINCT ON (client_id COLLATE "C") client_id, fleetgate_evict.device_name, fleetgate_evict.reason
    FROM unnest(client_ids) AS client_id
    ORDER BY client_id COLLATE "C"
    ON CONFLICT (client_id) DO UPDATE SET
        device_name = EXCLUDED.device_name,
        reason = EXCLUDED.reason,
        changed_at = greatest(clock_timestamp(), eviction.changed_at + interval '1 microsecond'),
        attempts = 0,
        next_attempt_at = now(),
        last_error = NULL
$$;
COMMENT ON FUNCTION fleetgate_evict(text[], text, text) IS 'Notes that the sessions of these client ids have to end.';

CREATE FUNCTION fleetgate_client_ids(device bigint, own_client_id text) RETURNS text[]
    LANGUAGE sql STABLE SET search_path FROM CURRENT
    RETURN array_append(ARRAY(SELECT client_id FROM client_sessions WHERE device_id = device), own_client_id);
COMMENT ON FUNCTION fleetgate_client_ids(bigint, text) IS
    'Every client id that a device may have a session with: its own, and those of the sessions known.';

-- Wakes the replicas. Deferred: the notice that makes a replica forget the device (V3) then always
-- comes first, so that no session is ended only to log in again with the rights that it had.
CREATE FUNCTION fleetgate_notify_eviction() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('fleetgate_eviction', '');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_notify_eviction() IS 'Announces at the end of the transaction that sessions have to end.';

CREATE CONSTRAINT TRIGGER session_evictions_notify_new
    AFTER INSERT ON session_evictions DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION fleetgate_notify_eviction();
CREATE CONSTRAINT TRIGGER session_evictions_notify_again
    AFTER UPDATE OF changed_at ON session_evictions DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.changed_at IS DISTINCT FROM NEW.changed_at)
    EXECUTE FUNCTION fleetgate_notify_eviction();

-- Devices -------------------------------------------------------------------------------------

CREATE FUNCTION fleetgate_evict_device() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    why text;
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM fleetgate_evict(fleetgate_client_ids(OLD.id, OLD.effective_client_id), OLD.name, 'device_removed');
        RETURN OLD;
    END IF;
    why := CASE
        WHEN OLD.enabled AND NOT NEW.enabled THEN 'device_disabled'
        WHEN OLD.name <> NEW.name THEN 'device_renamed'
        WHEN OLD.effective_client_id <> NEW.effective_client_id THEN 'client_id_changed'
        ELSE 'kind_changed' END;
    PERFORM fleetgate_evict(fleetgate_client_ids(OLD.id, OLD.effective_client_id), OLD.name, why);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_evict_device() IS 'Ends the sessions of a device that changed, under the client ids that it had.';

-- Before, because afterwards its sessions are gone with it.
CREATE TRIGGER devices_evict_removed
    BEFORE DELETE ON devices FOR EACH ROW EXECUTE FUNCTION fleetgate_evict_device();
CREATE TRIGGER devices_evict_changed
    AFTER UPDATE OF name, client_id, kind, enabled ON devices FOR EACH ROW
    WHEN ((OLD.name, OLD.effective_client_id, OLD.kind) IS DISTINCT FROM (NEW.name, NEW.effective_client_id, NEW.kind)
        OR (OLD.enabled AND NOT NEW.enabled))
    EXECUTE FUNCTION fleetgate_evict_device();

-- Credentials and rights ----------------------------------------------------------------------

-- A device that is being removed is no longer found here; fleetgate_evict_device() has seen to it.
CREATE FUNCTION fleetgate_evict_owner(device bigint, reason text) RETURNS void
    LANGUAGE sql SET search_path FROM CURRENT AS $$
    SELECT fleetgate_evict(fleetgate_client_ids(owner.id, owner.effective_client_id), owner.name, reason)
    FROM devices AS owner WHERE owner.id = device
$$;
COMMENT ON FUNCTION fleetgate_evict_owner(bigint, text) IS 'Ends the sessions of the device with this id.';

CREATE FUNCTION fleetgate_evict_for_credential() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM fleetgate_evict_owner(NEW.device_id, 'certificate_required');
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM fleetgate_evict_owner(OLD.device_id, 'credential_removed');
    ELSE
        PERFORM fleetgate_evict_owner(OLD.device_id,
            CASE WHEN OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL
                THEN 'credential_revoked' ELSE 'credential_changed' END);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_evict_for_credential() IS
    'Ends the sessions of a device that can no longer log in as it did. Which credential a session used is not known: all of the device''s end, and what still counts logs in again.';

CREATE TRIGGER device_credentials_session_required
    AFTER INSERT ON device_credentials FOR EACH ROW
    WHEN (NEW.certificate_required AND NEW.revoked_at IS NULL)
    EXECUTE FUNCTION fleetgate_evict_for_credential();
CREATE TRIGGER device_credentials_session_removed
    AFTER DELETE ON device_credentials FOR EACH ROW WHEN (OLD.revoked_at IS NULL)
    EXECUTE FUNCTION fleetgate_evict_for_credential();
CREATE TRIGGER device_credentials_session_changed
    AFTER UPDATE ON device_credentials FOR EACH ROW
    WHEN ((OLD.revoked_at IS NULL AND (NEW.revoked_at IS NOT NULL
            OR (OLD.device_id, OLD.kind, OLD.hash, OLD.common_name)
                IS DISTINCT FROM (NEW.device_id, NEW.kind, NEW.hash, NEW.common_name)
            OR coalesce(NEW.expires_at, 'infinity') < coalesce(OLD.expires_at, 'infinity')
            OR coalesce(NEW.not_before, '-infinity') > coalesce(OLD.not_before, '-infinity')))
        OR (NEW.revoked_at IS NULL AND NEW.certificate_required
            AND (OLD.revoked_at IS NOT NULL OR OLD.certificate_required IS NOT TRUE)))
    EXECUTE FUNCTION fleetgate_evict_for_credential();

-- At the end of the transaction, so that a right that was replaced by the same one ends nothing.
CREATE FUNCTION fleetgate_evict_for_binding() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF (OLD.state_topic IS NOT NULL AND NOT EXISTS (SELECT FROM topic_bindings AS binding
            WHERE binding.device_id = OLD.device_id AND binding.state_topic = OLD.state_topic))
        OR (OLD.command_topic IS NOT NULL AND NOT EXISTS (SELECT FROM topic_bindings AS binding
            WHERE binding.device_id = OLD.device_id AND binding.command_topic = OLD.command_topic))
    THEN
        PERFORM fleetgate_evict_owner(OLD.device_id, 'binding_removed');
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_evict_for_binding() IS
    'Ends the sessions of a device that lost a topic, unless another of its bindings has it by the end of the transaction.';

CREATE CONSTRAINT TRIGGER topic_bindings_session_removed
    AFTER DELETE ON topic_bindings DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION fleetgate_evict_for_binding();
CREATE CONSTRAINT TRIGGER topic_bindings_session_changed
    AFTER UPDATE ON topic_bindings DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN ((OLD.device_id, OLD.state_topic, OLD.command_topic)
        IS DISTINCT FROM (NEW.device_id, NEW.state_topic, NEW.command_topic))
    EXECUTE FUNCTION fleetgate_evict_for_binding();

CREATE FUNCTION fleetgate_evict_for_grant() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM topic_grants AS other WHERE other.device_id = OLD.device_id
            AND other.action = OLD.action AND other.topic_filter = OLD.topic_filter)
    THEN
        PERFORM fleetgate_evict_owner(OLD.device_id, 'grant_removed');
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_evict_for_grant() IS
    'Ends the sessions of a device that lost a grant, unless it has the same one again by the end of the transaction.';

CREATE CONSTRAINT TRIGGER topic_grants_session_removed
    AFTER DELETE ON topic_grants DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION fleetgate_evict_for_grant();
CREATE CONSTRAINT TRIGGER topic_grants_session_changed
    AFTER UPDATE ON topic_grants DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN ((OLD.device_id, OLD.action, OLD.topic_filter)
        IS DISTINCT FROM (NEW.device_id, NEW.action, NEW.topic_filter))
    EXECUTE FUNCTION fleetgate_evict_for_grant();

-- TRUNCATE ------------------------------------------------------------------------------------

CREATE FUNCTION fleetgate_evict_everybody() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM fleetgate_evict(fleetgate_client_ids(id, effective_client_id), name, 'truncated') FROM devices;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_evict_everybody() IS 'Ends every session: somebody empties a table that allowed them.';

CREATE TRIGGER devices_evict_truncated
    BEFORE TRUNCATE ON devices FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_evict_everybody();
CREATE TRIGGER device_credentials_evict_truncated
    BEFORE TRUNCATE ON device_credentials FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_evict_everybody();
CREATE TRIGGER topic_bindings_evict_truncated
    BEFORE TRUNCATE ON topic_bindings FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_evict_everybody();
CREATE TRIGGER topic_grants_evict_truncated
    BEFORE TRUNCATE ON topic_grants FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_evict_everybody();

-- Sweeps --------------------------------------------------------------------------------------

CREATE TABLE presence_sweeps (
    only_row boolean PRIMARY KEY DEFAULT true,
    finished_at timestamptz NOT NULL,
    CONSTRAINT presence_sweeps_only_row CHECK (only_row)
);
COMMENT ON TABLE presence_sweeps IS
    'When presence was last compared with EMQX''s list of clients, so that several replicas don''t do it one after the other.';
