-- What was told a device later is what was sent to it later. A request that reached Fleetgate late takes its place in the line by
-- when it was asked for, so neither that nor the order in which deliveries were stored says which of two was sent first.

CREATE OR REPLACE FUNCTION fleetgate_note_command_reports(
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
                AND later.attempted_at > delivery.attempted_at)
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
