-- Rows as release 0.1.0 leaves them, at least one in each table. The secret of "lamp" is
-- lr0nwEFz7RETNt7nm9_mnt6-U0u0n0A_AWWwxoxy7-s.

INSERT INTO capabilities (name, description, state_schema, command_schema) VALUES
    ('temperature', 'Degrees Celsius', '{"type": "number"}', NULL),
    ('relay', '', '{"type": "object"}', '{"type": "object"}');
INSERT INTO devices (name, client_id, area, floor, kind, enabled, meta) VALUES
    ('lamp', 'lamp-1', 'lab', '2', 'relay', true, '{"room": "101"}'),
    ('board', NULL, 'lab', NULL, 'service', true, '{}'),
    ('attic', NULL, 'attic', NULL, 'sensor', true, '{}');
INSERT INTO device_credentials (device_id, kind, hash, label, expires_at)
SELECT id, 'secret', '$argon2id$v=19$m=8,t=1,p=1$Wk9BUanNH2niszusARBQKQ$+YAzPsNigbg6LrYs/e+3wxP9P/iJcBbfteAAAlQtUQo',
       'first', '2998-01-01' FROM devices WHERE name = 'lamp';
INSERT INTO device_credentials (device_id, kind, common_name, certificate_required)
SELECT id, 'certificate', 'board.example', false FROM devices WHERE name = 'board';
INSERT INTO device_credentials (device_id, kind, not_before, revoked_at)
SELECT id, 'token', '2026-01-01', '2026-02-01' FROM devices WHERE name = 'attic';
INSERT INTO device_capabilities (device_id, capability)
SELECT id, capability FROM devices, unnest('{temperature,relay}'::text[]) AS capability WHERE name = 'lamp';
INSERT INTO topic_bindings (device_id, name, state_topic, command_topic, merge)
SELECT device_id, capability, 'lab/2/lamp/' || capability || '/state', 'lab/2/lamp/' || capability || '/set',
       capability = 'relay' FROM device_capabilities;
INSERT INTO topic_grants (device_id, action, topic_filter)
SELECT id, 'subscribe', 'lab/#' FROM devices WHERE name = 'board';
INSERT INTO routing_rules (name, capability, selector, strategy, priority) VALUES
    ('lab first', 'relay', '{"area": "lab"}', 'any', 10);
INSERT INTO serving_roles (name) VALUES ('serving');

SELECT fleetgate_write_sessions(array_agg(effective_client_id), array_agg(id), array_agg('2026-03-01 12:00+00'::timestamptz),
    array_agg(CASE WHEN name = 'board' THEN '2026-03-01 12:05+00'::timestamptz END), array_agg(false), array_agg(true), NULL, NULL)
FROM devices WHERE name <> 'attic';
SELECT fleetgate_write_reports(array_agg(id), array_agg('2998-01-01'::timestamptz), array_agg('2026-03-01 12:04+00'::timestamptz),
    array_agg('emqx@broker'::text), array_agg('temperature'::text), array_agg('{"at": 1772366640000, "id": "01", "value": 21.5}'::jsonb),
    array_agg('{"at": 1772366640000, "binding": "relay", "pointer": "", "message": "is not of type object"}'::jsonb))
FROM devices WHERE name = 'lamp';
SELECT fleetgate_merge_reports(array_agg(id), array_agg(id), array_agg('relay'::text), array_agg('{"on": true, "dim": 40}'::jsonb),
    array_agg(1772366640000), array_agg('02'::text), 524288)
FROM devices WHERE name = 'lamp';
INSERT INTO presence_sweeps (finished_at) VALUES ('2026-03-01 12:00+00');

INSERT INTO login_locks (device_name, address, failures, locked_until) VALUES ('attic', '192.0.2.7/32', 9, '2026-03-01 12:15+00');
INSERT INTO shared_addresses (address, shared_until) VALUES ('192.0.2.8/32', '2998-01-01');

-- A kick-out that waits, and one that was carried out while the replica below ran.
UPDATE devices SET enabled = false WHERE name = 'attic';
INSERT INTO replicas (id, started_at, listening, bound) VALUES ('00112233', '2026-03-01 11:00+00', true, '10 minutes');
INSERT INTO kick_outs_to_confirm (client_id, device_name, reason, changed_at, seen_at, kicked_by) VALUES
    ('lamp-1', 'lamp', 'grant_removed', '2026-03-01 12:00+00', '2026-03-01 12:00+00', '44556677');
