-- Every change that a decision depends on is announced on the channel fleetgate_device when its
-- transaction commits: the payload is the device's name, or empty when everything may have changed.
-- Each replica drops what it has cached of the device.
--
-- Presence, state, meta and place announce nothing: no decision depends on them, and they change
-- far more often than rights do.

CREATE FUNCTION fleetgate_notify_all() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('fleetgate_device', '');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_notify_all() IS 'Announces that everything may have changed (TRUNCATE).';

CREATE FUNCTION fleetgate_notify_device() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('fleetgate_device', OLD.name);
    END IF;
    -- PostgreSQL sends the same notice once only, so both halves of a change need no compare.
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('fleetgate_device', NEW.name);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_notify_device() IS 'Announces a changed device under its old and its new name.';

-- The lock makes a rename in another transaction wait for this one (and the other way round):
-- otherwise the notice could carry a name that the device no longer has, and its record, loaded
-- under the new name, would stay out of date. Presence updates don't wait for it. A device that is
-- being deleted is no longer seen here and announces itself.
CREATE FUNCTION fleetgate_notify_owner() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('fleetgate_device', owner.name)
        FROM (SELECT name FROM devices WHERE id = OLD.device_id FOR KEY SHARE) AS owner;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('fleetgate_device', owner.name)
        FROM (SELECT name FROM devices WHERE id = NEW.device_id FOR KEY SHARE) AS owner;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_notify_owner() IS
    'Announces the device whose row in another table changed; both devices when the row moved.';

CREATE TRIGGER devices_notify_existence
    AFTER INSERT OR DELETE ON devices FOR EACH ROW EXECUTE FUNCTION fleetgate_notify_device();
CREATE TRIGGER devices_notify_change
    AFTER UPDATE OF name, client_id, kind, enabled ON devices FOR EACH ROW
    WHEN ((OLD.name, OLD.client_id, OLD.kind, OLD.enabled)
        IS DISTINCT FROM (NEW.name, NEW.client_id, NEW.kind, NEW.enabled))
    EXECUTE FUNCTION fleetgate_notify_device();
CREATE TRIGGER devices_notify_truncate
    AFTER TRUNCATE ON devices FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_notify_all();

CREATE TRIGGER device_credentials_notify_existence
    AFTER INSERT OR DELETE ON device_credentials FOR EACH ROW EXECUTE FUNCTION fleetgate_notify_owner();
CREATE TRIGGER device_credentials_notify_change
    AFTER UPDATE ON device_credentials FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
    EXECUTE FUNCTION fleetgate_notify_owner();
CREATE TRIGGER device_credentials_notify_truncate
    AFTER TRUNCATE ON device_credentials FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_notify_all();

CREATE TRIGGER topic_bindings_notify_existence
    AFTER INSERT OR DELETE ON topic_bindings FOR EACH ROW EXECUTE FUNCTION fleetgate_notify_owner();
CREATE TRIGGER topic_bindings_notify_change
    AFTER UPDATE ON topic_bindings FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
    EXECUTE FUNCTION fleetgate_notify_owner();
CREATE TRIGGER topic_bindings_notify_truncate
    AFTER TRUNCATE ON topic_bindings FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_notify_all();

CREATE TRIGGER topic_grants_notify_existence
    AFTER INSERT OR DELETE ON topic_grants FOR EACH ROW EXECUTE FUNCTION fleetgate_notify_owner();
CREATE TRIGGER topic_grants_notify_change
    AFTER UPDATE ON topic_grants FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
    EXECUTE FUNCTION fleetgate_notify_owner();
CREATE TRIGGER topic_grants_notify_truncate
    AFTER TRUNCATE ON topic_grants FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_notify_all();

-- Schemas of capabilities ----------------------------------------------------------------------

CREATE FUNCTION fleetgate_notify_capability() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM pg_notify('fleetgate_capability', '');
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('fleetgate_capability', OLD.name);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('fleetgate_capability', NEW.name);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_notify_capability() IS
    'Announces on the channel fleetgate_capability a capability that changed, under its old and its new name; empty when all may have.';

CREATE TRIGGER capabilities_notify_existence
    AFTER INSERT OR DELETE ON capabilities FOR EACH ROW EXECUTE FUNCTION fleetgate_notify_capability();
CREATE TRIGGER capabilities_notify_change
    AFTER UPDATE OF name, state_schema, command_schema ON capabilities FOR EACH ROW
    WHEN ((OLD.name, OLD.state_schema, OLD.command_schema) IS DISTINCT FROM (NEW.name, NEW.state_schema, NEW.command_schema))
    EXECUTE FUNCTION fleetgate_notify_capability();
CREATE TRIGGER capabilities_notify_truncate
    AFTER TRUNCATE ON capabilities FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_notify_capability();
