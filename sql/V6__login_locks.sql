-- Locks after wrong passwords, so that every replica and command sees them (docs/LIMITS.md).
--
-- A replica keeps its locks in memory and writes at most ten changes a second here; a notice carries
-- each to the others. Whatever deletes a row (the command line, psql) ends the lock everywhere.

CREATE TABLE login_locks (
    device_name text COLLATE "C" NOT NULL DEFAULT '',
    address cidr NOT NULL,
    failures integer NOT NULL,
    locked_until timestamptz NOT NULL,
    PRIMARY KEY (device_name, address),
    CONSTRAINT login_locks_device_name_is_a_name CHECK (device_name = '' OR fleetgate_is_name(device_name)),
    CONSTRAINT login_locks_failures_are_some CHECK (failures > 0),
    CONSTRAINT login_locks_locked_until_valid CHECK (fleetgate_is_valid_timestamp(locked_until))
);
CREATE INDEX login_locks_by_end ON login_locks (locked_until);

COMMENT ON TABLE login_locks IS
    'Who has to wait after wrong passwords. Rows of made-up names are here as well. A row ends by itself, and is deleted 15 minutes later.';
COMMENT ON COLUMN login_locks.device_name IS
    'The name that was tried, whether a device has it or not; empty: all names, tried from this address.';
COMMENT ON COLUMN login_locks.address IS 'Where from: an IPv4 address, or the /64 of an IPv6 address.';
COMMENT ON COLUMN login_locks.failures IS 'Wrong passwords so far.';
COMMENT ON COLUMN login_locks.locked_until IS
    'Passwords that can be guessed are not looked at before. At most 15 minutes ahead is believed.';

CREATE FUNCTION fleetgate_notify_lock() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM pg_notify('fleetgate_lock', json_build_object(
            'ended', json_build_object('name', OLD.device_name, 'address', OLD.address))::text);
    ELSE
        PERFORM pg_notify('fleetgate_lock', json_build_object('lock', json_build_object(
            'name', NEW.device_name, 'address', NEW.address, 'failures', NEW.failures,
            'left_micros', floor(extract(epoch FROM NEW.locked_until - clock_timestamp()) * 1000000)::bigint))::text);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_notify_lock() IS 'Announces a lock that began, grew or ended.';

CREATE FUNCTION fleetgate_notify_locks_cleared() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('fleetgate_lock', '{"cleared":{}}');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_notify_locks_cleared() IS 'Announces that all locks ended (TRUNCATE).';

CREATE TRIGGER login_locks_notify_lock
    AFTER INSERT OR UPDATE ON login_locks FOR EACH ROW EXECUTE FUNCTION fleetgate_notify_lock();
-- What was forgotten anyway ends without a word.
CREATE TRIGGER login_locks_notify_end
    AFTER DELETE ON login_locks FOR EACH ROW
    WHEN (OLD.locked_until > now() - interval '15 minutes')
    EXECUTE FUNCTION fleetgate_notify_lock();
CREATE TRIGGER login_locks_notify_truncate
    AFTER TRUNCATE ON login_locks FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_notify_locks_cleared();

CREATE TABLE shared_addresses (
    address cidr PRIMARY KEY,
    shared_until timestamptz NOT NULL,
    CONSTRAINT shared_addresses_shared_until_valid CHECK (fleetgate_is_valid_timestamp(shared_until))
);
COMMENT ON TABLE shared_addresses IS
    'Addresses that more than 20 devices logged in from within an hour: NAT, a proxy. The limit over all names of an address is off for them.';
COMMENT ON COLUMN shared_addresses.shared_until IS 'When that ends, unless it is seen again. The row is deleted then.';
