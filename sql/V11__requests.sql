-- Services ask for commands over MQTT: they publish to fleetgate/commands/<capability>, and hear what became of it on
-- fleetgate/results/<service>/<id>. Events come late, twice and out of order: what counts is when EMQX received the request.

-- No device has topics there.
ALTER TABLE topic_bindings ADD CONSTRAINT topic_bindings_reserved CHECK (
    NOT (starts_with(coalesce(state_topic, ''), 'fleetgate/') OR starts_with(coalesce(command_topic, ''), 'fleetgate/')
        OR starts_with(coalesce(reply_topic, ''), 'fleetgate/'))) NOT VALID;
COMMENT ON CONSTRAINT topic_bindings_reserved ON topic_bindings IS
    'Below fleetgate/ services ask for commands and hear results. A binding of before this rule keeps its row until it is changed.';

-- What is asked for ----------------------------------------------------------------------------

CREATE TABLE command_requests (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    service_id bigint NOT NULL,
    service_name text COLLATE "C" NOT NULL,
    request text COLLATE "C" NOT NULL,
    capability text COLLATE "C" NOT NULL,
    body text,
    received_at timestamptz NOT NULL,
    message_id text COLLATE "C" NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    command_id uuid,
    answer jsonb,
    told_at timestamptz,
    done_at timestamptz,
    CONSTRAINT command_requests_once UNIQUE (service_id, request),
    CONSTRAINT command_requests_request_form CHECK (request ~ '^[A-Za-z0-9_-]{1,64}$'),
    CONSTRAINT command_requests_received CHECK (fleetgate_is_valid_timestamp(received_at))
);
CREATE INDEX command_requests_open ON command_requests (service_id, received_at, message_id) WHERE done_at IS NULL;
CREATE INDEX command_requests_by_command ON command_requests (command_id);
CREATE INDEX command_requests_done ON command_requests (done_at);

COMMENT ON TABLE command_requests IS 'Commands that services asked for over MQTT. By its rows a request that comes again is known.';
COMMENT ON COLUMN command_requests.service_id IS 'The service''s row; it may be gone.';
COMMENT ON COLUMN command_requests.request IS 'The id that the service gave it, else EMQX''s id of the message.';
COMMENT ON COLUMN command_requests.body IS 'What it published; NULL: no text, too much of it, or no longer needed.';
COMMENT ON COLUMN command_requests.received_at IS 'When EMQX received it, by the broker''s clock. Its command expires so much later.';
COMMENT ON COLUMN command_requests.answer IS 'What the service is told at first: that it is accepted, or why not. NULL: it waits.';
COMMENT ON COLUMN command_requests.told_at IS 'When the service was told that.';
COMMENT ON COLUMN command_requests.done_at IS 'When it was told all, also how the command ended.';

ALTER TABLE commands ADD COLUMN service_id bigint;
COMMENT ON COLUMN commands.service_id IS 'The service that asked, by its row; NULL: a person did. What it may no longer ask for is sent no more.';

ALTER TABLE command_deliveries ADD COLUMN asked_at timestamptz NOT NULL DEFAULT clock_timestamp();
COMMENT ON COLUMN command_deliveries.asked_at IS 'The order within the line, before position: when it was asked for, of a service''s request when EMQX received it.';

CREATE INDEX command_deliveries_by_line ON command_deliveries (device_id, binding, asked_at, position);
DROP INDEX command_deliveries_by_device;

CREATE FUNCTION fleetgate_may_command(service bigint, capability text) RETURNS boolean
    LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT EXISTS (
        SELECT FROM devices JOIN topic_grants AS allowed ON allowed.device_id = devices.id
        WHERE devices.id = service AND enabled AND kind = 'service' AND allowed.action = 'publish'
          AND allowed.topic_filter IN ('fleetgate/commands/#', 'fleetgate/commands/+', 'fleetgate/commands/' || fleetgate_may_command.capability))
$$;
COMMENT ON FUNCTION fleetgate_may_command(bigint, text) IS
    'Whether a service may ask for commands of a capability: by a grant that begins with fleetgate/commands/. A wider one commands nothing.';

ALTER TABLE work_queue ADD CONSTRAINT work_queue_command_request CHECK (kind <> 'command_request' OR key ~ '^[0-9]{19}$');
COMMENT ON COLUMN work_queue.kind IS 'What sort of work: kick_out, command, command_request.';
COMMENT ON COLUMN work_queue.key IS
    'What it is about. Of a kick-out the client id, which may be any text: EMQX accepts client ids that are no names, and the sweep finds them. Of a command the line: id of the device with leading zeros, /, binding. Of a request the id of the service with leading zeros.';
