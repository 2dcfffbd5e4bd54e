-- What administrators change of devices is told to those who watch the fleet: the HTTP API's event streams. The channel
-- fleetgate_device tells of what logins and actions depend on; here it is all that raises a device's version, such as area,
-- meta and capabilities. Presence and reports call no trigger: Fleetgate tells of them for many batches of events at a time.

-- Logins wait while the triggers are added: rather fail, and be tried again, than let them wait for somebody's long transaction.
SET LOCAL lock_timeout = '10s';

-- A notice has less than 8000 bytes.
CREATE FUNCTION fleetgate_notify_versions() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('fleetgate_live', 'devices:' || string_agg(device_id::text, ','))
    FROM (SELECT device_id, row_number() OVER (ORDER BY device_id) / 350 AS notice FROM changed) AS numbered
    GROUP BY notice;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_notify_versions() IS
    'Announces on the channel fleetgate_live the devices whose versions were raised, by id.';

CREATE TRIGGER device_versions_notify_new AFTER INSERT ON device_versions
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_notify_versions();
CREATE TRIGGER device_versions_notify_change AFTER UPDATE ON device_versions
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_notify_versions();
