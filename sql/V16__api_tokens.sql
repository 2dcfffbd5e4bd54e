-- The HTTP API: who may use it, and in which version each device is.

-- Logins wait while the triggers are added: rather fail, and be tried again, than let them wait for somebody's long transaction.
SET LOCAL lock_timeout = '10s';

-- Tokens ----------------------------------------------------------------------------------------

CREATE TABLE api_tokens (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    hash bytea NOT NULL,
    scopes text[] COLLATE "C" NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT api_tokens_name_unique UNIQUE (name),
    CONSTRAINT api_tokens_name_form CHECK (fleetgate_is_name(name)),
    CONSTRAINT api_tokens_hash_form CHECK (octet_length(hash) = 32),
    CONSTRAINT api_tokens_scopes_known CHECK (cardinality(scopes) > 0
        AND scopes <@ ARRAY['read', 'devices', 'credentials', 'commands', 'admin']),
    CONSTRAINT api_tokens_timestamps CHECK (fleetgate_is_valid_timestamp(expires_at) AND fleetgate_is_valid_timestamp(revoked_at))
);
COMMENT ON TABLE api_tokens IS 'Tokens of the HTTP API. A token is shown once, when it is made.';
COMMENT ON COLUMN api_tokens.name IS 'What it is called. No other token is ever called the same, so that a name in a log means one token.';
COMMENT ON COLUMN api_tokens.hash IS 'SHA-256 of its secret, which has 256 random bits: nobody guesses that, however fast the hash is.';
COMMENT ON COLUMN api_tokens.scopes IS 'What it may do. admin: everything, other tokens included.';
COMMENT ON COLUMN api_tokens.expires_at IS 'When it expires; NULL: never.';
COMMENT ON COLUMN api_tokens.revoked_at IS 'Set once, when it was revoked; it is never valid again.';

-- Versions --------------------------------------------------------------------------------------

-- One number a device, raised once by each transaction in which an administrator changes the device or what belongs to it:
-- credentials, capabilities, bindings, grants. Presence and reports raise nothing, and no trigger here is called by them. It
-- stands in a table of its own, so that presence, which writes the device's row, waits for no administrator's transaction.

CREATE TABLE device_versions (
    device_id bigint PRIMARY KEY REFERENCES devices ON DELETE CASCADE,
    number bigint NOT NULL DEFAULT 0,
    raised_by xid8
);
COMMENT ON TABLE device_versions IS
    'In which version each device is. One without a row is as it was made, which is version 0: adding many devices writes no rows here.';
COMMENT ON COLUMN device_versions.number IS
    'Raised by each transaction in which the device, its credentials, capabilities, bindings or grants are changed.';
COMMENT ON COLUMN device_versions.raised_by IS 'The transaction that raised it last; the same one does not raise it again.';

-- In the order of ids, so that two transactions do not wait for each other. The index is read whatever PostgreSQL expects,
-- as in V13. A device that is being deleted is no longer seen here; what comes with a new one, in its transaction, is part
-- of version 0 (created_at is when that transaction began).
CREATE FUNCTION fleetgate_raise_version(changed bigint[]) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    INSERT INTO device_versions AS present (device_id, number, raised_by)
    SELECT id, 1, pg_current_xact_id() FROM devices WHERE id = ANY (changed) AND created_at <> now() ORDER BY id
    ON CONFLICT (device_id) DO UPDATE SET number = present.number + 1, raised_by = pg_current_xact_id()
        WHERE present.raised_by IS DISTINCT FROM pg_current_xact_id();
END
$$;
COMMENT ON FUNCTION fleetgate_raise_version(bigint[]) IS 'Raises the version of devices, once in a transaction.';

CREATE OR REPLACE FUNCTION fleetgate_touch_device() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE devices SET updated_at = now() WHERE id = NEW.id;
    PERFORM fleetgate_raise_version(ARRAY[NEW.id]);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_touch_device() IS 'Sets updated_at of a device that an administrator changed, and raises its version.';

CREATE FUNCTION fleetgate_raise_version_of_owners() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM fleetgate_raise_version(array_agg(DISTINCT device_id)) FROM changed HAVING count(*) > 0;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_raise_version_of_owners() IS 'Raises the version of the devices whose rows in another table came or went.';

CREATE FUNCTION fleetgate_raise_version_of_owner() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM fleetgate_raise_version(ARRAY[OLD.device_id, NEW.device_id]);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_raise_version_of_owner() IS 'Raises the version of the device whose row in another table changed.';

CREATE TRIGGER device_credentials_version_new AFTER INSERT ON device_credentials
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_raise_version_of_owners();
CREATE TRIGGER device_credentials_version_gone AFTER DELETE ON device_credentials
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_raise_version_of_owners();
-- Not of the hash alone: nobody is shown it, and it may be replaced by a better hash of the same password.
CREATE TRIGGER device_credentials_version
    AFTER UPDATE OF device_id, kind, common_name, certificate_required, label, not_before, expires_at, revoked_at
    ON device_credentials FOR EACH ROW
    WHEN ((OLD.device_id, OLD.kind, OLD.common_name, OLD.certificate_required, OLD.label, OLD.not_before, OLD.expires_at, OLD.revoked_at)
        IS DISTINCT FROM
        (NEW.device_id, NEW.kind, NEW.common_name, NEW.certificate_required, NEW.label, NEW.not_before, NEW.expires_at, NEW.revoked_at))
    EXECUTE FUNCTION fleetgate_raise_version_of_owner();

CREATE TRIGGER device_capabilities_version_new AFTER INSERT ON device_capabilities
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_raise_version_of_owners();
CREATE TRIGGER device_capabilities_version_gone AFTER DELETE ON device_capabilities
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_raise_version_of_owners();
CREATE TRIGGER device_capabilities_version AFTER UPDATE ON device_capabilities
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION fleetgate_raise_version_of_owner();

CREATE TRIGGER topic_bindings_version_new AFTER INSERT ON topic_bindings
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_raise_version_of_owners();
CREATE TRIGGER topic_bindings_version_gone AFTER DELETE ON topic_bindings
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_raise_version_of_owners();
CREATE TRIGGER topic_bindings_version AFTER UPDATE ON topic_bindings
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION fleetgate_raise_version_of_owner();

CREATE TRIGGER topic_grants_version_new AFTER INSERT ON topic_grants
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_raise_version_of_owners();
CREATE TRIGGER topic_grants_version_gone AFTER DELETE ON topic_grants
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_raise_version_of_owners();
CREATE TRIGGER topic_grants_version AFTER UPDATE ON topic_grants
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION fleetgate_raise_version_of_owner();
