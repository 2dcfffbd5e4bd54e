-- The history of a database that was migrated by the last commit before the migrations were made anew.
CREATE TABLE fleetgate_schema_history (
    version integer NOT NULL,
    name character varying(255),
    applied_on character varying(255),
    checksum character varying(255)
);

INSERT INTO fleetgate_schema_history VALUES (1, 'registry', '2026-11-26T08:25:58.412447208Z', '17859430998186535878');
INSERT INTO fleetgate_schema_history VALUES (2, 'identities', '2026-11-26T08:25:58.450610468Z', '5779523236075871965');
INSERT INTO fleetgate_schema_history VALUES (3, 'change_notifications', '2026-11-26T08:25:58.457682856Z', '16921114123199755842');
INSERT INTO fleetgate_schema_history VALUES (4, 'presence_and_state', '2026-11-26T08:25:58.459150485Z', '7474604929078367065');
INSERT INTO fleetgate_schema_history VALUES (5, 'evictions', '2026-11-26T08:25:58.460788328Z', '4254593357780910431');
INSERT INTO fleetgate_schema_history VALUES (6, 'event_batches', '2026-11-26T08:25:58.465943908Z', '13283388252969297869');
INSERT INTO fleetgate_schema_history VALUES (7, 'login_locks', '2026-11-26T08:25:58.470724348Z', '6293592054571590684');
INSERT INTO fleetgate_schema_history VALUES (8, 'kick_outs_and_replicas', '2026-11-26T08:25:58.47609641Z', '18406054727720991503');
INSERT INTO fleetgate_schema_history VALUES (10, 'clocks_and_ended_sessions', '2026-11-26T08:25:58.484996945Z', '16131408595497005905');
INSERT INTO fleetgate_schema_history VALUES (11, 'merged_reports', '2026-11-26T08:25:58.499903698Z', '15590728418215472590');
INSERT INTO fleetgate_schema_history VALUES (12, 'reserved_words', '2026-11-26T08:25:58.502226122Z', '8928467306903293237');
INSERT INTO fleetgate_schema_history VALUES (13, 'serving_roles', '2026-11-26T08:25:58.504025226Z', '10906264034000130997');
