-- One client id, one device.
--
-- The unique index on devices.effective_client_id keeps two devices from sharing a client id. What it
-- cannot see: a service "s" may open every client id "s:anything". So
--   1. no other device's client id begins with "s:", and
--   2. no other service's name begins with "s:" (their instances would overlap).
--
-- A new service and a new "s:..." could each miss the other while neither is committed. Therefore a
-- service takes an advisory lock alone, a client id with a colon takes it shared, until the
-- transaction ends; all others (most fleets: every device) take none. The check reads after it holds
-- the lock, with a snapshot of its own. REPEATABLE READ has no such snapshot and is refused here;
-- SERIALIZABLE finds the conflict by itself.

CREATE FUNCTION fleetgate_check_identity() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    -- Any constant will do that nothing else in this database uses: "fgident" in ASCII.
    identity_lock CONSTANT bigint := x'666764656e74'::bigint;
    is_service CONSTANT boolean := NEW.kind = 'service';
    claimed text;
    owner text;
    other text;
    other_client_id text;
BEGIN
    IF current_setting('transaction_isolation') = 'repeatable read' THEN
        RAISE EXCEPTION 'device "%": services and client ids with a colon cannot be checked in a REPEATABLE READ transaction', NEW.name
            USING ERRCODE = 'feature_not_supported', HINT = 'Use READ COMMITTED or SERIALIZABLE.';
    END IF;
    IF is_service THEN
        PERFORM pg_advisory_xact_lock(identity_lock);
    ELSE
        PERFORM pg_advisory_xact_lock_shared(identity_lock);
    END IF;

    -- Does a service own what this device claims? Its name would be what stands before a colon.
    SELECT service.name, claim INTO owner, claimed
    FROM unnest(ARRAY[NEW.effective_client_id, CASE WHEN is_service THEN NEW.name END]) AS claim
    CROSS JOIN LATERAL generate_series(1, char_length(claim)) AS position
    JOIN devices AS service ON service.name = left(claim, position - 1) AND service.kind = 'service'
    WHERE substr(claim, position, 1) = ':' AND service.id <> NEW.id
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'device "%": "%" belongs to the service "%", which may open every client id that begins with "%:"',
                NEW.name, claimed, owner, owner
            USING ERRCODE = 'exclusion_violation', TABLE = 'devices', CONSTRAINT = 'devices_identity',
                HINT = format('Choose a name and client id that do not begin with "%s:", or rename the service "%s" first.', owner, owner);
    END IF;

    -- Does this service claim what another device has? In bytes, ";" follows ":".
    IF is_service THEN
        SELECT name, effective_client_id INTO other, other_client_id
        FROM devices
        WHERE effective_client_id >= NEW.name || ':' AND effective_client_id < NEW.name || ';' AND id <> NEW.id
        LIMIT 1;
        IF NOT FOUND THEN
            SELECT name, name INTO other, other_client_id
            FROM devices
            WHERE name >= NEW.name || ':' AND name < NEW.name || ';' AND kind = 'service' AND id <> NEW.id
            LIMIT 1;
        END IF;
        IF FOUND THEN
            RAISE EXCEPTION 'device "%" cannot be a service: it could open every client id that begins with "%:", and "%" belongs to the device "%"',
                    NEW.name, NEW.name, other_client_id, other
                USING ERRCODE = 'exclusion_violation', TABLE = 'devices', CONSTRAINT = 'devices_identity',
                    HINT = format('Choose another name for the service, or give the device "%s" another name or client id first.', other);
        END IF;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_check_identity() IS
    'Refuses a device whose client ids overlap with those of a service.';

CREATE TRIGGER devices_identity
    AFTER INSERT OR UPDATE OF name, client_id, kind ON devices FOR EACH ROW
    WHEN (NEW.kind = 'service' OR strpos(NEW.effective_client_id, ':') > 0)
    EXECUTE FUNCTION fleetgate_check_identity();

-- Which client ids are a device's own ----------------------------------------------------------

CREATE FUNCTION fleetgate_owns_client_id(device_name text, own_client_id text, kind text, client_id text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN fleetgate_is_name(client_id)
        AND (client_id = own_client_id
             OR (kind = 'service' AND starts_with(client_id, device_name || ':')
                 AND fleetgate_is_name(substr(client_id, char_length(device_name) + 2))));
COMMENT ON FUNCTION fleetgate_owns_client_id(text, text, text, text) IS
    'Whether a client id is the device''s own. Whole, it is a name; a service s may also open s:anything, where anything is a name too. The rule of DeviceRecord::owns_client_id.';
