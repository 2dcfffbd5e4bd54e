-- Of a device that subscribes with QoS 0 after it did so with QoS 1 no receipt can come any more: the lowest QoS counts.

CREATE OR REPLACE FUNCTION fleetgate_note_command_fact(
    delivery uuid, device bigint, fact text, qos smallint, stamp timestamptz, ok boolean, answer text, heard_on text
) RETURNS boolean
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    noted text[];
    -- Of a command that is confirmed in another way a reply is kept, and decides nothing.
    by_reply boolean := fact = 'answered' AND EXISTS (
        SELECT FROM command_deliveries AS known JOIN commands AS command ON command.id = known.command_id
        WHERE known.id = delivery AND command.confirm = 'reply');
    own uuid[];
BEGIN
    -- One of a device; of a gateway, one a child on the topic. Locked in one order, so that two that note the same don't
    -- wait for each other in a circle.
    own := ARRAY(SELECT known.id FROM command_deliveries AS known
        WHERE (known.id = delivery AND known.message IS NULL OR known.message = delivery)
          AND (known.device_id = device
               OR EXISTS (SELECT FROM devices AS child WHERE child.id = known.device_id AND child.gateway = device))
          -- A gateway acknowledges for all of its children on the topic, and replies for each on its own reply topic.
          AND (known.message IS NULL OR fact <> 'answered' OR EXISTS (SELECT FROM topic_bindings AS binding
               WHERE binding.device_id = known.device_id AND binding.name = known.binding AND binding.reply_topic = heard_on))
        ORDER BY known.id FOR UPDATE OF known);
    WITH changed AS (
        UPDATE command_deliveries AS known SET
            written_at = CASE WHEN fact = 'written' THEN coalesce(known.written_at, clock_timestamp()) ELSE known.written_at END,
            written_qos = CASE WHEN fact = 'written' THEN least(known.written_qos, qos) ELSE known.written_qos END,
            written_stamp = CASE WHEN fact = 'written' THEN least(known.written_stamp, stamp) ELSE known.written_stamp END,
            acked_at = CASE WHEN fact = 'acked' THEN coalesce(known.acked_at, clock_timestamp()) ELSE known.acked_at END,
            acked_stamp = CASE WHEN fact = 'acked' THEN least(known.acked_stamp, stamp) ELSE known.acked_stamp END,
            answered_at = CASE WHEN by_reply THEN coalesce(known.answered_at, clock_timestamp()) ELSE known.answered_at END,
            answered_ok = CASE WHEN by_reply THEN coalesce(known.answered_ok, ok) ELSE known.answered_ok END,
            answer = CASE WHEN fact = 'answered' THEN coalesce(known.answer, fleetgate_note_command_fact.answer) ELSE known.answer END
        WHERE known.id = ANY (own)
        RETURNING known.device_id, known.binding, known.ended_at)
    SELECT array_agg(DISTINCT fleetgate_command_line(device_id, binding)) FILTER (WHERE ended_at IS NULL) INTO noted
    FROM changed;
    IF noted IS NOT NULL THEN
        PERFORM fleetgate_queue_work('command', noted, array_fill('{}'::jsonb, ARRAY[cardinality(noted)]));
    END IF;
    RETURN cardinality(own) > 0;
END
$$;
COMMENT ON COLUMN command_deliveries.written_qos IS 'With which QoS, the lowest of several times: 0 is never acknowledged.';

-- Commands to a device that is gone are found by the name that it had. Commands wait while this is built: seconds for millions.
SET LOCAL lock_timeout = '10s';
CREATE INDEX command_deliveries_by_device_name ON command_deliveries (device_name);

-- The functions are where the tables are. SET search_path FROM CURRENT keeps "$user" as it is written, which is another schema for a
-- serving role than for the owner. `fleetgate migrate` sets the schema itself from now on, so that FROM CURRENT keeps that.
DO $$
DECLARE
    called regprocedure;
BEGIN
    FOR called IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace AND starts_with(proname, 'fleetgate_')
          AND array_to_string(proconfig, ' ') LIKE '%search_path="$user"%'
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path TO %I', called, current_schema());
    END LOOP;
END
$$;
