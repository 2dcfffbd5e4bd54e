-- Commands that succeed only when the device has answered: by a report of its state, or by a reply.

-- What a capability's commands are like ---------------------------------------------------------

ALTER TABLE capabilities
    ADD COLUMN answer_in integer NOT NULL DEFAULT 30,
    ADD COLUMN envelope boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT capabilities_confirm_known,
    ADD CONSTRAINT capabilities_confirm_known CHECK (confirm IN ('sent', 'delivered', 'state', 'reply')),
    ADD CONSTRAINT capabilities_answer_in_range CHECK (answer_in BETWEEN 1 AND 3600);

COMMENT ON COLUMN capabilities.confirm IS
    'What makes a command succeed. sent: EMQX had a subscriber for it. delivered: the device acknowledged it (PUBACK). state: the device then reported what it was told to be. reply: it said so on its reply topic.';
COMMENT ON COLUMN capabilities.answer_in IS
    'Seconds after its receipt within which a command that is confirmed by state or reply has to be answered.';
COMMENT ON COLUMN capabilities.envelope IS
    'Whether a command goes down as {"id", "value"}, for devices that see no properties (MQTT 3.1.1).';

ALTER TABLE commands
    ADD COLUMN answer_in integer NOT NULL DEFAULT 30,
    ADD COLUMN envelope boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT commands_payload_json CHECK (payload::jsonb IS NOT NULL);

-- Reply topics --------------------------------------------------------------------------------

ALTER TABLE topic_bindings
    ADD COLUMN reply_topic text COLLATE "C",
    ADD CONSTRAINT topic_bindings_reply_topic_form CHECK (fleetgate_is_binding_topic(reply_topic)),
    ADD CONSTRAINT topic_bindings_reply_to_commands CHECK (reply_topic IS NULL OR command_topic IS NOT NULL);

COMMENT ON TABLE topic_bindings IS
    'The exact topics of a device. It may publish to its state and reply topics and subscribe to its command topics.';
COMMENT ON COLUMN topic_bindings.reply_topic IS 'Where the device answers commands; NULL: it does not.';

CREATE OR REPLACE FUNCTION fleetgate_kick_out_for_binding() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF (OLD.state_topic IS NOT NULL OR OLD.reply_topic IS NOT NULL) AND EXISTS (
            SELECT FROM unnest(ARRAY[OLD.state_topic, OLD.reply_topic]) AS lost (topic)
            WHERE topic IS NOT NULL AND NOT EXISTS (SELECT FROM topic_bindings AS binding
                WHERE binding.device_id = OLD.device_id AND topic IN (binding.state_topic, binding.reply_topic)))
        OR (OLD.command_topic IS NOT NULL AND NOT EXISTS (SELECT FROM topic_bindings AS binding
            WHERE binding.device_id = OLD.device_id AND binding.command_topic = OLD.command_topic))
    THEN
        PERFORM fleetgate_kick_out_owner(OLD.device_id, 'binding_removed');
    END IF;
    RETURN NULL;
END
$$;
DROP TRIGGER topic_bindings_kick_out_changed ON topic_bindings;
CREATE CONSTRAINT TRIGGER topic_bindings_kick_out_changed
    AFTER UPDATE ON topic_bindings DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN ((OLD.device_id, OLD.state_topic, OLD.command_topic, OLD.reply_topic)
        IS DISTINCT FROM (NEW.device_id, NEW.state_topic, NEW.command_topic, NEW.reply_topic))
    EXECUTE FUNCTION fleetgate_kick_out_for_binding();
DROP TRIGGER topic_bindings_touch ON topic_bindings;
CREATE TRIGGER topic_bindings_touch
    BEFORE UPDATE ON topic_bindings FOR EACH ROW
    WHEN ((OLD.device_id, OLD.name, OLD.state_topic, OLD.command_topic, OLD.reply_topic, OLD.merge)
        IS DISTINCT FROM (NEW.device_id, NEW.name, NEW.state_topic, NEW.command_topic, NEW.reply_topic, NEW.merge))
    EXECUTE FUNCTION fleetgate_touch();

-- Facts ---------------------------------------------------------------------------------------

ALTER TABLE command_deliveries
    ADD COLUMN written_stamp timestamptz,
    ADD COLUMN acked_stamp timestamptz,
    ADD COLUMN reported_stamp timestamptz,
    ADD COLUMN answered_at timestamptz,
    ADD COLUMN answered_ok boolean,
    ADD COLUMN answer text,
    ADD COLUMN awaits_report boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT command_deliveries_answered CHECK ((answered_at IS NULL) = (answered_ok IS NULL)),
    ADD CONSTRAINT command_deliveries_answer_size CHECK (octet_length(answer) <= 4096);
-- Every batch of events asks whether there is any: so it holds only what a report may still confirm.
CREATE INDEX command_deliveries_awaiting_report ON command_deliveries (device_id, binding) WHERE awaits_report;

COMMENT ON COLUMN command_deliveries.written_stamp IS 'When EMQX wrote it to the device''s connection, by the broker''s clock.';
COMMENT ON COLUMN command_deliveries.acked_stamp IS 'When the device acknowledged it, by the broker''s clock.';
COMMENT ON COLUMN command_deliveries.reported_stamp IS
    'When the device last reported what it was told to be, by the broker''s clock. It confirms the command if the broker had written that before.';
COMMENT ON COLUMN command_deliveries.answered_at IS 'When the device''s first answer was noted: a report that confirms it, or a reply.';
COMMENT ON COLUMN command_deliveries.answered_ok IS 'Whether the answer was that it is done.';
COMMENT ON COLUMN command_deliveries.answer IS 'The reply, cut to 4 KiB.';
COMMENT ON COLUMN command_deliveries.awaits_report IS 'Whether a report of its binding may still confirm it.';

CREATE FUNCTION fleetgate_is_reported(command jsonb, report jsonb, levels integer DEFAULT 32) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
BEGIN
    IF levels = 0 OR jsonb_typeof(command) <> 'object' OR jsonb_typeof(report) IS DISTINCT FROM 'object' THEN
        RETURN coalesce(command = report, false);
    END IF;
    RETURN NOT EXISTS (
        SELECT FROM jsonb_each(command)
        WHERE NOT CASE WHEN report ? key THEN fleetgate_is_reported(value, report -> key, levels - 1) ELSE false END);
END
$$;
COMMENT ON FUNCTION fleetgate_is_reported(jsonb, jsonb, integer) IS
    'Whether a report says what a command told: every member of an object is in the report, at every level; anything else is equal. Numbers compare by value. Objects deeper than so many levels have to be equal as a whole: recursion must not exhaust the stack.';

-- A delivery that timed out and is answered after all is open again: the worker then finds how it ended.
CREATE FUNCTION fleetgate_settle_answer() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF NEW.answered_at IS NULL AND NEW.awaits_report
        AND NEW.reported_stamp >= coalesce(NEW.written_stamp, NEW.acked_stamp)
    THEN
        NEW.answered_at := clock_timestamp();
        NEW.answered_ok := true;
    END IF;
    IF NEW.answered_at IS NOT NULL THEN
        NEW.awaits_report := false;
        IF OLD.answered_at IS NULL AND NEW.ended_as = 'timed_out' THEN
            NEW.ended_at := NULL;
            NEW.ended_as := NULL;
        END IF;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION fleetgate_settle_answer() IS
    'Takes a report for the answer once it is known that the broker had written the command before, whatever is heard first.';
CREATE TRIGGER command_deliveries_settle_answer
    BEFORE UPDATE OF written_stamp, acked_stamp, reported_stamp, answered_at ON command_deliveries
    FOR EACH ROW EXECUTE FUNCTION fleetgate_settle_answer();

CREATE FUNCTION fleetgate_note_command_fact(
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
COMMENT ON FUNCTION fleetgate_note_command_fact(uuid, bigint, text, smallint, timestamptz, boolean, text) IS
    'Notes what was heard of a delivery, only of the device that it was meant for: written (with a QoS), acked or answered (ok or not, and the reply). stamp: the broker''s clock. Facts may come twice and in any order: the first of each kind stays. Returns whether it was one of ours.';

CREATE FUNCTION fleetgate_note_command_reports(
    device_ids bigint[], bindings text[], reports jsonb[], stamps timestamptz[]
) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    noted text[];
BEGIN
    -- A binding that merges may hold by now what no single report said.
    WITH told AS (
        SELECT * FROM unnest(device_ids, bindings, reports, stamps) AS told (device_id, binding, report, stamp)
        UNION ALL
        SELECT known.device_id, told.binding, known.state -> told.binding -> 'value', told.stamp
        FROM (SELECT device_id, binding, max(stamp) AS stamp
              FROM unnest(device_ids, bindings, stamps) AS told (device_id, binding, stamp)
              GROUP BY device_id, binding) AS told
        JOIN topic_bindings AS bound ON bound.device_id = told.device_id AND bound.name = told.binding AND bound.merge
        JOIN device_state AS known ON known.device_id = told.device_id),
    confirmed AS (
        SELECT delivery.id, max(told.stamp) AS stamp
        FROM told
        JOIN command_deliveries AS delivery ON delivery.device_id = told.device_id
            AND delivery.binding = told.binding AND delivery.awaits_report
        JOIN commands AS command ON command.id = delivery.command_id
        WHERE fleetgate_is_reported(command.payload::jsonb, told.report)
          -- What was told the device later is what its reports are about.
          AND NOT EXISTS (SELECT FROM command_deliveries AS later
              WHERE later.device_id = delivery.device_id AND later.binding = delivery.binding
                AND later.position > delivery.position AND later.attempts > 0)
        GROUP BY delivery.id),
    locked AS (
        SELECT delivery.id, confirmed.stamp FROM command_deliveries AS delivery JOIN confirmed USING (id)
        ORDER BY delivery.id FOR UPDATE OF delivery),
    changed AS (
        UPDATE command_deliveries AS delivery
        SET reported_stamp = greatest(delivery.reported_stamp, locked.stamp)
        FROM locked WHERE delivery.id = locked.id
        RETURNING delivery.device_id, delivery.binding, delivery.ended_at)
    SELECT array_agg(DISTINCT fleetgate_command_line(device_id, binding)) INTO noted
    FROM changed WHERE ended_at IS NULL;
    IF noted IS NOT NULL THEN
        PERFORM fleetgate_queue_work('command', noted, array_fill('{}'::jsonb, ARRAY[cardinality(noted)]));
    END IF;
END
$$;
COMMENT ON FUNCTION fleetgate_note_command_reports(bigint[], text[], jsonb[], timestamptz[]) IS
    'Notes reports that say what a command told: one element a report, with the broker''s time of it. The reports are written by then.';
