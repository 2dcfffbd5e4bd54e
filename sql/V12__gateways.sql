-- Devices behind a gateway: one MQTT client that speaks for many things (Zigbee2MQTT, a LoRaWAN server, a Modbus bridge).
--
-- 1. A gateway is a device that is no service and has no gateway itself; a device behind it is its *child*.
-- 2. A child is no service and has no valid credential: nobody logs in as a child.
-- 3. A gateway's rights are its own topics and those of its enabled children, and what takes such a topic away names the
--    gateway too: its replicas' records (V3) and its sessions (V7).
-- 4. Whether a child is online is derived (device_presence): when a gateway connects no row of a child is written.

-- Logins wait while the columns are added: rather fail, and be tried again, than let them wait for somebody's long transaction.
SET LOCAL lock_timeout = '10s';

ALTER TABLE devices
    ADD COLUMN gateway bigint,
    ADD COLUMN availability_topic text COLLATE "C",
    ADD CONSTRAINT devices_gateway FOREIGN KEY (gateway) REFERENCES devices,
    ADD CONSTRAINT devices_gateway_itself CHECK (gateway <> id),
    ADD CONSTRAINT devices_child_service CHECK (gateway IS NULL OR kind <> 'service'),
    ADD CONSTRAINT devices_availability_topic_form CHECK (
        fleetgate_is_binding_topic(availability_topic) AND NOT starts_with(availability_topic, 'fleetgate/')),
    ADD CONSTRAINT devices_availability_of_child CHECK (availability_topic IS NULL OR gateway IS NOT NULL);
CREATE INDEX devices_by_gateway ON devices (gateway) WHERE gateway IS NOT NULL;

COMMENT ON COLUMN devices.gateway IS 'The device whose MQTT client speaks for this one; NULL: it speaks for itself.';
COMMENT ON COLUMN devices.availability_topic IS
    'Where the gateway says whether it reaches the device: online, offline, or JSON with such a "state". NULL: it does not say.';
COMMENT ON COLUMN devices.online IS
    'Whether any session of the device is open. Written by presence only. Of a child it says nothing: see device_presence.';
COMMENT ON CONSTRAINT devices_gateway ON devices IS 'A gateway with children cannot be deleted.';

DROP TRIGGER devices_touch ON devices;
CREATE TRIGGER devices_touch
    AFTER UPDATE OF name, client_id, area, floor, kind, enabled, meta, gateway, availability_topic ON devices FOR EACH ROW
    WHEN ((OLD.name, OLD.client_id, OLD.area, OLD.floor, OLD.kind, OLD.enabled, OLD.meta, OLD.gateway, OLD.availability_topic)
        IS DISTINCT FROM
        (NEW.name, NEW.client_id, NEW.area, NEW.floor, NEW.kind, NEW.enabled, NEW.meta, NEW.gateway, NEW.availability_topic))
    EXECUTE FUNCTION fleetgate_touch_device();

-- One level, and no credential ------------------------------------------------------------------

-- Two transactions must not break this together, each without seeing the other. What makes a device a child, or a service,
-- locks its own row against foreign key checks (FOR UPDATE); whoever makes it a gateway, or gives it a credential, holds
-- FOR KEY SHARE on it. So of two such transactions one waits for the other's end, and then sees what it did, because each
-- statement here has a snapshot of its own. Presence takes neither lock and is waited for by nobody. REPEATABLE READ has
-- no new snapshot and is refused; SERIALIZABLE finds the conflict by itself.

CREATE FUNCTION fleetgate_refuse_repeatable_read(thing text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('transaction_isolation') = 'repeatable read' THEN
        RAISE EXCEPTION '% cannot be checked in a REPEATABLE READ transaction', thing
            USING ERRCODE = 'feature_not_supported', HINT = 'Use READ COMMITTED or SERIALIZABLE.';
    END IF;
END
$$;
COMMENT ON FUNCTION fleetgate_refuse_repeatable_read(text) IS
    'Refuses a transaction whose one snapshot does not show what others have committed meanwhile.';

CREATE FUNCTION fleetgate_check_gateway() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    chosen devices;
BEGIN
    PERFORM fleetgate_refuse_repeatable_read(format('the gateway or kind of device "%s"', NEW.name));
    IF TG_OP = 'UPDATE' THEN
        PERFORM FROM devices WHERE id = NEW.id FOR UPDATE;
    END IF;
    IF NEW.gateway IS NOT NULL THEN
        SELECT * INTO chosen FROM devices WHERE id = NEW.gateway FOR KEY SHARE;
        IF chosen.kind = 'service' THEN
            RAISE EXCEPTION 'device "%" cannot be behind "%", which is a service', NEW.name, chosen.name
                USING ERRCODE = 'check_violation', TABLE = 'devices', CONSTRAINT = 'devices_gateway_service';
        END IF;
        IF chosen.gateway IS NOT NULL THEN
            RAISE EXCEPTION 'device "%" cannot be behind "%", which is behind a gateway itself', NEW.name, chosen.name
                USING ERRCODE = 'check_violation', TABLE = 'devices', CONSTRAINT = 'devices_gateway_of_child';
        END IF;
        IF EXISTS (SELECT FROM device_credentials WHERE device_id = NEW.id AND revoked_at IS NULL
                AND coalesce(expires_at > clock_timestamp(), true)) THEN
            RAISE EXCEPTION 'device "%" has a valid credential; a device behind a gateway has none', NEW.name
                USING ERRCODE = 'check_violation', TABLE = 'devices', CONSTRAINT = 'devices_child_credential';
        END IF;
    END IF;
    IF (NEW.gateway IS NOT NULL OR NEW.kind = 'service') AND EXISTS (SELECT FROM devices WHERE gateway = NEW.id) THEN
        RAISE EXCEPTION 'device "%" is the gateway of other devices', NEW.name
            USING ERRCODE = 'check_violation', TABLE = 'devices', CONSTRAINT = 'devices_gateway_children';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_check_gateway() IS
    'Refuses a gateway that is a service or a child, a child that is a gateway or has a valid credential.';

CREATE TRIGGER devices_check_gateway_new
    AFTER INSERT ON devices FOR EACH ROW WHEN (NEW.gateway IS NOT NULL)
    EXECUTE FUNCTION fleetgate_check_gateway();
-- Also where a gateway is taken away: what reads whose child a device is holds FOR KEY SHARE, and waits.
CREATE TRIGGER devices_check_gateway
    AFTER UPDATE OF gateway, kind ON devices FOR EACH ROW
    WHEN (OLD.gateway IS DISTINCT FROM NEW.gateway OR (NEW.kind = 'service' AND OLD.kind <> 'service'))
    EXECUTE FUNCTION fleetgate_check_gateway();

CREATE FUNCTION fleetgate_check_credential_of_child() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    owner devices;
BEGIN
    IF NEW.expires_at <= clock_timestamp() THEN
        RETURN NULL;
    END IF;
    PERFORM fleetgate_refuse_repeatable_read('a credential');
    SELECT * INTO owner FROM devices WHERE id = NEW.device_id FOR KEY SHARE;
    IF owner.gateway IS NOT NULL THEN
        RAISE EXCEPTION 'device "%" is behind a gateway and cannot have a valid credential', owner.name
            USING ERRCODE = 'check_violation', TABLE = 'device_credentials', CONSTRAINT = 'device_credentials_of_child';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_check_credential_of_child() IS 'Refuses a valid credential of a child.';

CREATE TRIGGER device_credentials_check_child
    AFTER INSERT OR UPDATE OF device_id, expires_at, revoked_at ON device_credentials FOR EACH ROW
    WHEN (NEW.revoked_at IS NULL)
    EXECUTE FUNCTION fleetgate_check_credential_of_child();

-- Notices (V3) ----------------------------------------------------------------------------------

CREATE FUNCTION fleetgate_notify_by_id(device bigint) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_notify('fleetgate_device', found.name)
    FROM (SELECT name FROM devices WHERE id = device FOR KEY SHARE) AS found;
END
$$;
COMMENT ON FUNCTION fleetgate_notify_by_id(bigint) IS
    'Announces the device with this id, if it is still there, and makes a rename of it in another transaction wait.';

CREATE OR REPLACE FUNCTION fleetgate_notify_device() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('fleetgate_device', OLD.name);
        IF OLD.gateway IS NOT NULL THEN
            PERFORM fleetgate_notify_by_id(OLD.gateway);
        END IF;
    END IF;
    -- PostgreSQL sends the same notice once only, so both halves of a change need no compare.
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('fleetgate_device', NEW.name);
        IF NEW.gateway IS NOT NULL THEN
            PERFORM fleetgate_notify_by_id(NEW.gateway);
        END IF;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_notify_device() IS
    'Announces a changed device under its old and its new name, and its old and its new gateway.';

DROP TRIGGER devices_notify_change ON devices;
CREATE TRIGGER devices_notify_change
    AFTER UPDATE OF name, client_id, kind, enabled, gateway, availability_topic ON devices FOR EACH ROW
    WHEN ((OLD.name, OLD.client_id, OLD.kind, OLD.enabled, OLD.gateway, OLD.availability_topic)
        IS DISTINCT FROM (NEW.name, NEW.client_id, NEW.kind, NEW.enabled, NEW.gateway, NEW.availability_topic))
    EXECUTE FUNCTION fleetgate_notify_device();

-- Locked first and read then: who waited for a change of the device's gateway sees what it changed.
CREATE FUNCTION fleetgate_notify_owner_and_gateway(device bigint) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    owner devices;
BEGIN
    SELECT * INTO owner FROM devices WHERE id = device FOR KEY SHARE;
    IF FOUND THEN
        PERFORM pg_notify('fleetgate_device', owner.name);
        IF owner.gateway IS NOT NULL THEN
            PERFORM fleetgate_notify_by_id(owner.gateway);
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION fleetgate_notify_owner_and_gateway(bigint) IS 'Announces the device with this id and its gateway.';

CREATE OR REPLACE FUNCTION fleetgate_notify_owner() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM fleetgate_notify_owner_and_gateway(OLD.device_id);
    END IF;
    IF TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND NEW.device_id IS DISTINCT FROM OLD.device_id THEN
        PERFORM fleetgate_notify_owner_and_gateway(NEW.device_id);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_notify_owner() IS
    'Announces the device whose row in another table changed, and its gateway; both devices when the row moved.';

-- Kick-outs (V7) --------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION fleetgate_kick_out_owner(device bigint, reason text) RETURNS void
    LANGUAGE sql SET search_path FROM CURRENT AS $$
    SELECT fleetgate_kick_out(fleetgate_client_ids(named.id, named.effective_client_id), named.name, reason)
    FROM devices AS owner JOIN devices AS named ON named.id IN (owner.id, owner.gateway)
    WHERE owner.id = device
    ORDER BY named.id
$$;
COMMENT ON FUNCTION fleetgate_kick_out_owner(bigint, text) IS 'Kicks out the device with this id, and its gateway.';

-- A gateway that gets a child loses nothing and stays; the one that loses it is kicked out.
CREATE OR REPLACE FUNCTION fleetgate_kick_out_device() RETURNS trigger
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
        WHEN OLD.gateway IS DISTINCT FROM NEW.gateway THEN 'gateway_changed'
        WHEN OLD.kind <> NEW.kind THEN 'kind_changed'
        ELSE 'availability_topic_changed' END;
    PERFORM fleetgate_kick_out(fleetgate_client_ids(OLD.id, OLD.effective_client_id), OLD.name, why);
    IF OLD.gateway IS NOT NULL THEN
        PERFORM fleetgate_kick_out_owner(OLD.gateway, why);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_kick_out_device() IS
    'Kicks out a device that changed, under the client ids that it had, and the gateway that it had.';

DROP TRIGGER devices_kick_out_changed ON devices;
CREATE TRIGGER devices_kick_out_changed
    AFTER UPDATE OF name, client_id, kind, enabled, gateway, availability_topic ON devices FOR EACH ROW
    WHEN ((OLD.name, OLD.effective_client_id, OLD.kind, OLD.gateway)
            IS DISTINCT FROM (NEW.name, NEW.effective_client_id, NEW.kind, NEW.gateway)
        OR (OLD.enabled AND NOT NEW.enabled)
        OR OLD.availability_topic <> NEW.availability_topic
        OR (OLD.availability_topic IS NOT NULL AND NEW.availability_topic IS NULL))
    EXECUTE FUNCTION fleetgate_kick_out_device();

-- Once for each gateway, however many of its children a statement removes. A gateway that is removed with them is gone
-- by now, and its own kick-out is queued.
CREATE FUNCTION fleetgate_kick_out_gateways() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM fleetgate_kick_out_owner(lost.gateway, 'device_removed')
    FROM (SELECT DISTINCT gateway FROM removed WHERE gateway IS NOT NULL ORDER BY gateway) AS lost;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_kick_out_gateways() IS 'Kicks out the gateways of children that were removed.';

CREATE TRIGGER devices_kick_out_gateways
    AFTER DELETE ON devices REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_kick_out_gateways();

-- Presence --------------------------------------------------------------------------------------

-- What a gateway says of a child's availability is kept like a report, in the same order and with the same doubts about
-- clocks, under a name that no binding can have. What was said on another topic than today's counts no more.
CREATE VIEW device_presence AS
SELECT device.id AS device_id,
       CASE WHEN device.gateway IS NULL THEN device.online
       ELSE EXISTS (SELECT FROM devices AS gateway WHERE gateway.id = device.gateway AND gateway.online)
            AND NOT (device.availability_topic IS NOT NULL AND EXISTS (
                SELECT FROM device_state AS heard
                WHERE heard.device_id = device.id
                  AND heard.state -> '$availability' -> 'value'
                      @> jsonb_build_object('topic', device.availability_topic, 'state', 'offline')))
       END AS online
FROM devices AS device;
COMMENT ON VIEW device_presence IS
    'Whether a device is online. A child is while its gateway is, and its availability topic, if it has one, did not last say offline.';
COMMENT ON COLUMN device_state.state IS
    'Last known values by binding name: {"value", "at", "id"}, at in ms since 1970 by the broker''s clock, id that of the message. No "value": an empty payload has cleared it, and the entry stays to keep late reports out. at is never later than it was noted: "stamp" is then what the broker said, and "untrusted" is true if that was further ahead than clocks may differ. "$availability" is no binding: what a gateway last said of a child, {"topic", "state"}.';

-- Commands --------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION fleetgate_wake_commands_of_device(device bigint) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    waiting text[];
BEGIN
    waiting := ARRAY(SELECT DISTINCT fleetgate_command_line(device_id, binding) FROM command_deliveries
                     WHERE device_id = ANY (device || ARRAY(SELECT id FROM devices WHERE gateway = device)) AND ended_at IS NULL);
    IF cardinality(waiting) > 0 THEN
        PERFORM fleetgate_queue_work('command', waiting, array_fill('{}'::jsonb, ARRAY[cardinality(waiting)]));
    END IF;
END
$$;
COMMENT ON FUNCTION fleetgate_wake_commands_of_device(bigint) IS
    'Queues the lines of a device and of its children in which commands wait.';

-- A child that gets another gateway, or none, may be online there.
CREATE TRIGGER devices_wake_commands_of_child
    AFTER UPDATE OF gateway ON devices FOR EACH ROW WHEN (OLD.gateway IS DISTINCT FROM NEW.gateway)
    EXECUTE FUNCTION fleetgate_wake_commands();

CREATE OR REPLACE FUNCTION fleetgate_note_command_fact(
    delivery uuid, device bigint, fact text, qos smallint, stamp timestamptz, ok boolean, answer text
) RETURNS boolean
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    noted command_deliveries;
    -- Of a command that is confirmed in another way a reply is kept, and decides nothing.
    by_reply boolean := fact = 'answered' AND EXISTS (
        SELECT FROM command_deliveries AS known JOIN commands AS command ON command.id = known.command_id
        WHERE known.id = delivery AND command.confirm = 'reply');
BEGIN
    UPDATE command_deliveries AS known SET
        written_at = CASE WHEN fact = 'written' THEN coalesce(known.written_at, clock_timestamp()) ELSE known.written_at END,
        written_qos = CASE WHEN fact = 'written' THEN coalesce(known.written_qos, qos) ELSE known.written_qos END,
        written_stamp = CASE WHEN fact = 'written' THEN least(known.written_stamp, stamp) ELSE known.written_stamp END,
        acked_at = CASE WHEN fact = 'acked' THEN coalesce(known.acked_at, clock_timestamp()) ELSE known.acked_at END,
        acked_stamp = CASE WHEN fact = 'acked' THEN least(known.acked_stamp, stamp) ELSE known.acked_stamp END,
        answered_at = CASE WHEN by_reply THEN coalesce(known.answered_at, clock_timestamp()) ELSE known.answered_at END,
        answered_ok = CASE WHEN by_reply THEN coalesce(known.answered_ok, ok) ELSE known.answered_ok END,
        answer = CASE WHEN fact = 'answered' THEN coalesce(known.answer, fleetgate_note_command_fact.answer) ELSE known.answer END
    WHERE id = delivery AND (device_id = device
        OR EXISTS (SELECT FROM devices AS child WHERE child.id = known.device_id AND child.gateway = device))
    RETURNING * INTO noted;
    IF noted.id IS NULL THEN
        RETURN false;
    END IF;
    IF noted.ended_at IS NULL THEN
        PERFORM fleetgate_queue_work('command',
            ARRAY[fleetgate_command_line(noted.device_id, noted.binding)], ARRAY['{}'::jsonb]);
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION fleetgate_note_command_fact(uuid, bigint, text, smallint, timestamptz, boolean, text) IS
    'Notes what was heard of a delivery, only of the device that it was meant for or of its gateway: written (with a QoS), acked or answered (ok or not, and the reply). stamp: the broker''s clock. Facts may come twice and in any order: the first of each kind stays. Returns whether it was one of ours.';
