-- Commands: what devices are told to do, and what became of it.

-- What a capability's commands are like ---------------------------------------------------------

ALTER TABLE capabilities
    ADD COLUMN confirm text COLLATE "C" NOT NULL DEFAULT 'delivered',
    ADD COLUMN command_expiry integer NOT NULL DEFAULT 60,
    ADD COLUMN ack_timeout integer NOT NULL DEFAULT 30,
    ADD COLUMN only_latest boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT capabilities_confirm_known CHECK (confirm IN ('sent', 'delivered')),
    ADD CONSTRAINT capabilities_command_expiry_range CHECK (command_expiry BETWEEN 1 AND 2592000),
    ADD CONSTRAINT capabilities_ack_timeout_range CHECK (ack_timeout BETWEEN 5 AND 600);

COMMENT ON COLUMN capabilities.confirm IS
    'What makes a command succeed. sent: EMQX had a subscriber for it. delivered: the device acknowledged it (PUBACK).';
COMMENT ON COLUMN capabilities.command_expiry IS 'Seconds until a command expires, unless it says otherwise.';
COMMENT ON COLUMN capabilities.ack_timeout IS 'Seconds until a command that the device has not acknowledged is sent again.';
COMMENT ON COLUMN capabilities.only_latest IS
    'Whether a command replaces those of the same device that have not been sent yet, as for a set-point.';

-- Commands ------------------------------------------------------------------------------------

CREATE TABLE commands (
    id uuid PRIMARY KEY,
    capability text COLLATE "C" NOT NULL,
    payload text NOT NULL,
    asked_by text COLLATE "C" NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    confirm text COLLATE "C" NOT NULL,
    ack_timeout integer NOT NULL,
    CONSTRAINT commands_expiry CHECK (expires_at > asked_at)
);
CREATE INDEX commands_by_time ON commands (asked_at, id);

COMMENT ON TABLE commands IS 'What was asked for, one row a request. Its names are copies: they outlive what they name.';
COMMENT ON COLUMN commands.payload IS 'JSON, as it goes to the device.';
COMMENT ON COLUMN commands.asked_by IS 'Who asked.';

-- One line a device and binding: the worker sends the first that has not ended, so commands of a line arrive
-- in their order and one at a time. All timestamps are of the clock of PostgreSQL, when a fact was noted.
CREATE TABLE command_deliveries (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    command_id uuid NOT NULL REFERENCES commands ON DELETE CASCADE,
    device_id bigint NOT NULL,
    device_name text COLLATE "C" NOT NULL,
    binding text COLLATE "C" NOT NULL,
    position bigint GENERATED ALWAYS AS IDENTITY,
    topic text COLLATE "C",
    attempts integer NOT NULL DEFAULT 0,
    attempted_at timestamptz,
    published_at timestamptz,
    written_at timestamptz,
    written_qos smallint,
    acked_at timestamptz,
    superseded_at timestamptz,
    cancelled_at timestamptz,
    cancelled_why text COLLATE "C",
    ended_at timestamptz,
    ended_as text COLLATE "C",
    last_error text,
    CONSTRAINT command_deliveries_end CHECK ((ended_at IS NULL) = (ended_as IS NULL)),
    CONSTRAINT command_deliveries_cancelled CHECK ((cancelled_at IS NULL) = (cancelled_why IS NULL))
);
CREATE INDEX command_deliveries_lines ON command_deliveries (device_id, binding, position) WHERE ended_at IS NULL;
CREATE INDEX command_deliveries_by_command ON command_deliveries (command_id, position);
CREATE INDEX command_deliveries_by_device ON command_deliveries (device_id, position DESC);

COMMENT ON TABLE command_deliveries IS
    'What became of a command, one row a device and binding. It holds facts; the state follows from them (src/domain/delivery.rs).';
COMMENT ON COLUMN command_deliveries.id IS 'Goes with the message (Correlation Data): by it facts are matched, and a device drops repeats.';
COMMENT ON COLUMN command_deliveries.device_id IS 'The device''s row; it may be gone.';
COMMENT ON COLUMN command_deliveries.position IS 'The order within the line.';
COMMENT ON COLUMN command_deliveries.topic IS 'Where the newest attempt went: the binding''s command topic of then.';
COMMENT ON COLUMN command_deliveries.attempts IS
    'How often it was sent, or may have been: committed before each publish. That nobody had subscribed is no attempt.';
COMMENT ON COLUMN command_deliveries.attempted_at IS 'When the newest attempt began; NULL: none is under way that may have reached anybody.';
COMMENT ON COLUMN command_deliveries.published_at IS 'When EMQX first said that somebody has subscribed to it.';
COMMENT ON COLUMN command_deliveries.written_at IS 'When it was first told that EMQX wrote it to the device''s connection.';
COMMENT ON COLUMN command_deliveries.written_qos IS 'With which QoS: 0 is never acknowledged.';
COMMENT ON COLUMN command_deliveries.ended_at IS 'When it ended. What is told later is noted and changes the end no more.';
COMMENT ON COLUMN command_deliveries.ended_as IS 'The state that it ended in.';

CREATE TABLE command_pauses (
    capability text COLLATE "C" PRIMARY KEY,
    paused_at timestamptz NOT NULL DEFAULT now(),
    paused_by text COLLATE "C" NOT NULL
);
COMMENT ON TABLE command_pauses IS 'Capabilities whose commands are not sent at present; they expire all the same.';
COMMENT ON COLUMN command_pauses.capability IS 'A capability; the empty text stands for all.';

-- The work ------------------------------------------------------------------------------------

-- The key of a line; its work row is due when something can be done for its first delivery. Keys are in the
-- order of devices, in which presence locks those: two transactions that wake lines of the same devices don't
-- wait for each other in a circle.
CREATE FUNCTION fleetgate_command_line(device bigint, binding text) RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT RETURN lpad(device::text, 19, '0') || '/' || binding;
COMMENT ON FUNCTION fleetgate_command_line(bigint, text) IS 'The key of a line of commands in work_queue.';

ALTER TABLE work_queue ADD CONSTRAINT work_queue_command CHECK (kind <> 'command' OR key ~ '^[0-9]{19}/.');
COMMENT ON COLUMN work_queue.kind IS 'What sort of work: kick_out, command.';
COMMENT ON COLUMN work_queue.key IS
    'What it is about. Of a kick-out the client id, which may be any text: EMQX accepts client ids that are no names, and the sweep finds them. Of a command the line: id of the device with leading zeros, /, binding.';

-- Whoever writes a delivery, or a fact that changes what can be done, wakes its line.
CREATE FUNCTION fleetgate_wake_command_line() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM fleetgate_queue_work('command',
        array_agg(DISTINCT fleetgate_command_line(device_id, binding)),
        array_fill('{}'::jsonb, ARRAY[count(DISTINCT (device_id, binding))::integer]))
    FROM changed HAVING count(*) > 0;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_wake_command_line() IS 'Queues the lines of deliveries that were added.';

CREATE TRIGGER command_deliveries_added
    AFTER INSERT ON command_deliveries REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_wake_command_line();

-- A device that connects gets what waits for it, also one that was online already: it may have subscribed to nothing
-- so far. So does one that is enabled again, and one that is disabled loses what waits.
CREATE FUNCTION fleetgate_wake_commands_of_device(device bigint) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    waiting text[];
BEGIN
    waiting := ARRAY(SELECT DISTINCT fleetgate_command_line(device_id, binding) FROM command_deliveries
                     WHERE device_id = device AND ended_at IS NULL);
    IF cardinality(waiting) > 0 THEN
        PERFORM fleetgate_queue_work('command', waiting, array_fill('{}'::jsonb, ARRAY[cardinality(waiting)]));
    END IF;
END
$$;
COMMENT ON FUNCTION fleetgate_wake_commands_of_device(bigint) IS 'Queues the lines of a device in which commands wait.';

CREATE FUNCTION fleetgate_wake_commands() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_TABLE_NAME = 'devices' THEN
        PERFORM fleetgate_wake_commands_of_device(NEW.id);
    ELSE
        PERFORM fleetgate_wake_commands_of_device(NEW.device_id);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_wake_commands() IS 'Queues what waits for a device that connects, or that was enabled or disabled.';

CREATE TRIGGER devices_wake_commands
    AFTER UPDATE OF enabled ON devices FOR EACH ROW WHEN (OLD.enabled IS DISTINCT FROM NEW.enabled)
    EXECUTE FUNCTION fleetgate_wake_commands();
CREATE TRIGGER client_sessions_wake_commands_new
    AFTER INSERT ON client_sessions FOR EACH ROW WHEN (NEW.open)
    EXECUTE FUNCTION fleetgate_wake_commands();
CREATE TRIGGER client_sessions_wake_commands
    AFTER UPDATE OF connected_at, open ON client_sessions FOR EACH ROW
    WHEN (NEW.open AND (OLD.connected_at, OLD.open) IS DISTINCT FROM (NEW.connected_at, NEW.open))
    EXECUTE FUNCTION fleetgate_wake_commands();

-- Facts ---------------------------------------------------------------------------------------

-- Notes what EMQX tells of a message: only of the device that it was meant for. Returns whether it was one of
-- ours. Facts may come twice and in any order: the first of each kind stays.
CREATE FUNCTION fleetgate_note_command(delivery uuid, device bigint, fact text, qos smallint) RETURNS boolean
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    noted command_deliveries;
BEGIN
    UPDATE command_deliveries SET
        written_at = CASE WHEN fact = 'written' THEN coalesce(written_at, clock_timestamp()) ELSE written_at END,
        written_qos = CASE WHEN fact = 'written' THEN coalesce(written_qos, qos) ELSE written_qos END,
        acked_at = CASE WHEN fact = 'acked' THEN coalesce(acked_at, clock_timestamp()) ELSE acked_at END
    WHERE id = delivery AND device_id = device
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
COMMENT ON FUNCTION fleetgate_note_command(uuid, bigint, text, smallint) IS
    'Notes of a delivery that it was written to the device''s connection, or acknowledged.';
