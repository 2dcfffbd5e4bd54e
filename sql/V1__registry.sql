-- The registry: which devices exist, what they may log in with, what they can do and on which topics.
--
-- Names and topics are ordered by bytes (COLLATE "C"): pages come in one order everywhere, prefix
-- searches use the indexes, and no index breaks when an operating system's collation changes.

DO $$
BEGIN
    IF current_setting('server_version_num')::integer < 150000 THEN
        RAISE EXCEPTION 'this is PostgreSQL %; Fleetgate needs 15 or later', current_setting('server_version')
            USING HINT = 'Point fleetgate at a newer PostgreSQL server.';
    END IF;
    IF current_setting('server_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION 'database "%" has the encoding %; Fleetgate needs UTF8',
                current_database(), current_setting('server_encoding')
            USING HINT = 'Create one with: createdb --encoding=UTF8 --template=template0 fleetgate';
    END IF;
END
$$;

-- Rules of names and topics. They are those of src/domain/name.rs and src/domain/topic.rs, and
-- tests/integration/schema.rs holds the two against each other. PostgreSQL text never holds U+0000.

CREATE FUNCTION fleetgate_has_control(value text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN value ~ '[\u0001-\u001F\u007F-\u009F]';
COMMENT ON FUNCTION fleetgate_has_control(text) IS 'Whether a text holds a control character (C0, DEL, C1).';

CREATE FUNCTION fleetgate_is_name(value text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN octet_length(value) BETWEEN 1 AND 128
        AND value !~ '[+#/$]'
        AND NOT fleetgate_has_control(value)
        AND value = btrim(value, U&' \00A0\1680\2000\2001\2002\2003\2004\2005\2006\2007\2008\2009\200A\2028\2029\202F\205F\3000');
COMMENT ON FUNCTION fleetgate_is_name(text) IS
    'Whether a text is a name: 1 to 128 bytes, none of + # / $, no control characters, no white space (Unicode) around it.';

CREATE FUNCTION fleetgate_is_topic_name(value text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN octet_length(value) BETWEEN 1 AND 1024
        AND value !~ '[+#]'
        AND NOT fleetgate_has_control(value);
COMMENT ON FUNCTION fleetgate_is_topic_name(text) IS
    'Whether a text is an MQTT topic name (MQTT 5 section 4.7) of at most 1024 bytes.';

CREATE FUNCTION fleetgate_is_topic_filter(value text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN octet_length(value) BETWEEN 1 AND 1024
        -- A wildcard stands alone in its level, and # only in the last one.
        AND value !~ '[^/][+#]|[+#][^/]|#/'
        AND NOT fleetgate_has_control(value);
COMMENT ON FUNCTION fleetgate_is_topic_filter(text) IS
    'Whether a text is an MQTT topic filter (MQTT 5 section 4.7) of at most 1024 bytes.';

CREATE FUNCTION fleetgate_is_binding_topic(value text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN fleetgate_is_topic_name(value) AND NOT starts_with(value, '$') AND strpos(value, '${') = 0
        AND value !~ '^eq |%[uc](?![A-Za-z0-9])';
COMMENT ON FUNCTION fleetgate_is_binding_topic(text) IS
    'Whether a binding may carry a topic: a topic name outside the broker''s $ name space, without ${ (which EMQX expands) or %u and %c (which mosquitto would), not beginning with "eq " (which EMQX takes for "literally").';

CREATE FUNCTION fleetgate_is_grant_filter(value text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN fleetgate_is_topic_filter(value)
        AND value !~ '^\$(share|queue|stream|exclusive|delayed)/'
        AND strpos(value, '${') = 0
        AND value !~ '^eq |%[uc](?![A-Za-z0-9])';
COMMENT ON FUNCTION fleetgate_is_grant_filter(text) IS
    'Whether a grant may carry a filter: a topic filter without a prefix that says how ($share/, $delayed/ and the like), without ${ (which EMQX expands) or %u and %c (which mosquitto would), not beginning with "eq " (which EMQX takes for "literally").';

CREATE FUNCTION fleetgate_is_valid_timestamp(value timestamptz) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN value >= '0001-01-01 00:00:00+00'::timestamptz AND value < '9999-01-01 00:00:00+00'::timestamptz;
COMMENT ON FUNCTION fleetgate_is_valid_timestamp(timestamptz) IS
    'Whether a timestamp is finite and in the years 1 to 9998. "Never" and "always" are written as NULL, not as infinity.';

CREATE FUNCTION fleetgate_touch() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION fleetgate_touch() IS 'Sets updated_at of a row that changes.';

-- Devices -------------------------------------------------------------------------------------

-- Presence rewrites rows of this table all the time. Room in each page and no index on "online" let
-- PostgreSQL do that without touching an index (HOT updates).
CREATE TABLE devices (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    client_id text COLLATE "C",
    effective_client_id text COLLATE "C" NOT NULL GENERATED ALWAYS AS (coalesce(client_id, name)) STORED,
    area text COLLATE "C",
    floor text COLLATE "C",
    kind text COLLATE "C" NOT NULL,
    online boolean NOT NULL DEFAULT false,
    enabled boolean NOT NULL DEFAULT true,
    meta jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    open_sessions bigint NOT NULL DEFAULT 0,
    CONSTRAINT devices_name_unique UNIQUE (name),
    CONSTRAINT devices_client_id_unique UNIQUE (effective_client_id),
    CONSTRAINT devices_name_form CHECK (fleetgate_is_name(name)),
    CONSTRAINT devices_client_id_form CHECK (fleetgate_is_name(client_id)),
    CONSTRAINT devices_area_form CHECK (fleetgate_is_name(area)),
    CONSTRAINT devices_floor_form CHECK (fleetgate_is_name(floor)),
    CONSTRAINT devices_kind_form CHECK (fleetgate_is_name(kind)),
    CONSTRAINT devices_meta_form CHECK (jsonb_typeof(meta) = 'object'),
    CONSTRAINT devices_name_reserved CHECK (name NOT IN ('undefined', 'http_api')),
    CONSTRAINT devices_client_id_reserved CHECK (client_id NOT IN ('undefined', 'http_api'))
) WITH (fillfactor = 80);
CREATE INDEX devices_by_place ON devices (area, floor, name);
CREATE INDEX devices_by_kind ON devices (kind, name);

COMMENT ON TABLE devices IS 'Every physical thing, and every service that uses the bus (kind "service").';
COMMENT ON COLUMN devices.name IS 'MQTT user name, and client id unless client_id says otherwise.';
COMMENT ON COLUMN devices.client_id IS 'MQTT client id of a device that connects with another one than its name.';
COMMENT ON COLUMN devices.effective_client_id IS
    'The client id that the device connects with. Unique: EMQX ends the older session of a client id, so two devices must never share one. A service s may also open s:anything; see fleetgate_check_identity().';
COMMENT ON COLUMN devices.area IS 'Where it is; first level of its conventional topics.';
COMMENT ON COLUMN devices.floor IS 'Where it is; second level of its conventional topics.';
COMMENT ON COLUMN devices.kind IS 'What it is. Only "service" has a meaning: it may open several clients and lives by its grants.';
COMMENT ON COLUMN devices.online IS 'Whether any session of the device is open. Written by presence only.';
COMMENT ON COLUMN devices.enabled IS 'Whether the device may log in and use its rights at all.';
COMMENT ON COLUMN devices.meta IS 'A free-form JSON object. Routing selectors may look into it.';
COMMENT ON COLUMN devices.updated_at IS 'Last change by an administrator; presence does not count.';
COMMENT ON COLUMN devices.open_sessions IS 'How many of its sessions are open. Written by triggers of client_sessions only.';
COMMENT ON CONSTRAINT devices_name_reserved ON devices IS
    'EMQX writes "undefined" where there is no user name or client id, and "http_api" as the client id of what is published over its REST API.';

-- Not fleetgate_touch(): where a table has a generated column in a unique index, any BEFORE UPDATE
-- trigger makes PostgreSQL lock each updated row against foreign key checks, and presence updates
-- would then wait for everybody who adds a credential or a session.
CREATE FUNCTION fleetgate_touch_device() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE devices SET updated_at = now() WHERE id = NEW.id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_touch_device() IS 'Sets updated_at of a device that an administrator changed.';

CREATE TRIGGER devices_touch
    AFTER UPDATE OF name, client_id, area, floor, kind, enabled, meta ON devices FOR EACH ROW
    WHEN ((OLD.name, OLD.client_id, OLD.area, OLD.floor, OLD.kind, OLD.enabled, OLD.meta)
        IS DISTINCT FROM (NEW.name, NEW.client_id, NEW.area, NEW.floor, NEW.kind, NEW.enabled, NEW.meta))
    EXECUTE FUNCTION fleetgate_touch_device();

-- Credentials ---------------------------------------------------------------------------------

CREATE TABLE device_credentials (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id bigint NOT NULL REFERENCES devices ON DELETE CASCADE,
    kind text COLLATE "C" NOT NULL,
    hash text COLLATE "C",
    common_name text COLLATE "C",
    certificate_required boolean,
    label text COLLATE "C",
    not_before timestamptz,
    expires_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT device_credentials_kind_known CHECK (kind IN ('secret', 'password', 'token', 'certificate')),
    CONSTRAINT device_credentials_hash_presence CHECK ((hash IS NOT NULL) = (kind IN ('secret', 'password'))),
    CONSTRAINT device_credentials_hash_form CHECK (octet_length(hash) <= 512
        AND hash ~ '^\$argon2id\$v=19\$m=[0-9]+,t=[0-9]+,p=[0-9]+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+$'),
    CONSTRAINT device_credentials_common_name_presence CHECK ((common_name IS NOT NULL) = (kind = 'certificate')),
    CONSTRAINT device_credentials_common_name_form CHECK (octet_length(common_name) BETWEEN 1 AND 256
        AND NOT fleetgate_has_control(common_name) AND common_name <> 'undefined'),
    CONSTRAINT device_credentials_required_presence CHECK ((certificate_required IS NOT NULL) = (kind = 'certificate')),
    CONSTRAINT device_credentials_token_start CHECK (kind <> 'token' OR not_before IS NOT NULL),
    CONSTRAINT device_credentials_label_form CHECK (octet_length(label) BETWEEN 1 AND 256
        AND NOT fleetgate_has_control(label)),
    CONSTRAINT device_credentials_timestamps CHECK (fleetgate_is_valid_timestamp(not_before)
        AND fleetgate_is_valid_timestamp(expires_at) AND fleetgate_is_valid_timestamp(revoked_at)),
    CONSTRAINT device_credentials_period CHECK (not_before < expires_at)
);
CREATE INDEX device_credentials_by_device ON device_credentials (device_id);

COMMENT ON TABLE device_credentials IS
    'What a device may log in with. Several may be valid at once, so that they can be rotated without an outage.';
COMMENT ON COLUMN device_credentials.kind IS
    'secret: generated by Fleetgate, 256 random bits. password: chosen by a person. token: the device may show a signed device token (JWT). certificate: a client certificate that EMQX has verified.';
COMMENT ON COLUMN device_credentials.hash IS
    'argon2id PHC string of a secret (minimum cost: nobody guesses 256 bits) or password (OWASP cost). The secret itself is stored nowhere.';
COMMENT ON COLUMN device_credentials.common_name IS
    'Subject common name of the certificate, byte for byte. Devices may share a certificate, so it is not unique. Not the word "undefined", which is what EMQX sends where there is no certificate.';
COMMENT ON COLUMN device_credentials.certificate_required IS
    'true: no other credential of the device is valid without this certificate. false: the certificate alone is enough.';
COMMENT ON COLUMN device_credentials.label IS 'What an administrator calls it.';
COMMENT ON COLUMN device_credentials.not_before IS
    'When it becomes valid; NULL: at once. For a token row: tokens issued (iat) earlier are refused.';
COMMENT ON COLUMN device_credentials.expires_at IS 'When it expires; NULL: never.';
COMMENT ON COLUMN device_credentials.revoked_at IS
    'Set once, when it was revoked; it is never valid again. A revoked token row takes all tokens issued under it along.';

CREATE TRIGGER device_credentials_touch
    BEFORE UPDATE ON device_credentials FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
    EXECUTE FUNCTION fleetgate_touch();

-- Capabilities and topics ---------------------------------------------------------------------

CREATE TABLE capabilities (
    name text COLLATE "C" PRIMARY KEY,
    description text NOT NULL DEFAULT '',
    state_schema jsonb,
    command_schema jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT capabilities_name_form CHECK (fleetgate_is_name(name)),
    CONSTRAINT capabilities_name_reserved CHECK (name <> 'main'),
    CONSTRAINT capabilities_state_schema_form CHECK (jsonb_typeof(state_schema) IN ('object', 'boolean')),
    CONSTRAINT capabilities_command_schema_form CHECK (jsonb_typeof(command_schema) IN ('object', 'boolean'))
);

COMMENT ON TABLE capabilities IS 'Things that devices can do ("temperature", "relay").';
COMMENT ON COLUMN capabilities.name IS 'Also the name of the binding that carries it; "main" is the binding without a capability.';
COMMENT ON COLUMN capabilities.state_schema IS 'JSON Schema of the payload that reports its state.';
COMMENT ON COLUMN capabilities.command_schema IS 'JSON Schema of the payload that commands it.';

CREATE TRIGGER capabilities_touch
    BEFORE UPDATE ON capabilities FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
    EXECUTE FUNCTION fleetgate_touch();

CREATE TABLE device_capabilities (
    device_id bigint NOT NULL REFERENCES devices ON DELETE CASCADE,
    capability text COLLATE "C" NOT NULL,
    PRIMARY KEY (device_id, capability),
    CONSTRAINT device_capabilities_capability FOREIGN KEY (capability) REFERENCES capabilities
);
CREATE INDEX device_capabilities_by_capability ON device_capabilities (capability, device_id);

COMMENT ON TABLE device_capabilities IS
    'Which devices can do what. A capability in use cannot be deleted, because that would take rights away unseen.';

-- The primary key also serves both cascades: a device has few bindings.
CREATE TABLE topic_bindings (
    device_id bigint NOT NULL REFERENCES devices ON DELETE CASCADE,
    name text COLLATE "C" NOT NULL,
    capability text COLLATE "C" GENERATED ALWAYS AS (nullif(name, 'main')) STORED,
    state_topic text COLLATE "C",
    command_topic text COLLATE "C",
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    merge boolean NOT NULL DEFAULT false,
    PRIMARY KEY (device_id, name),
    CONSTRAINT topic_bindings_capability FOREIGN KEY (device_id, capability)
        REFERENCES device_capabilities ON DELETE CASCADE,
    CONSTRAINT topic_bindings_name_form CHECK (fleetgate_is_name(name)),
    CONSTRAINT topic_bindings_state_topic_form CHECK (fleetgate_is_binding_topic(state_topic)),
    CONSTRAINT topic_bindings_command_topic_form CHECK (fleetgate_is_binding_topic(command_topic)),
    CONSTRAINT topic_bindings_some_topic CHECK (state_topic IS NOT NULL OR command_topic IS NOT NULL)
);

COMMENT ON TABLE topic_bindings IS
    'The exact topics of a device. It may publish to its state topics and subscribe to its command topics.';
COMMENT ON COLUMN topic_bindings.name IS 'A capability that the device has, or "main".';
COMMENT ON COLUMN topic_bindings.capability IS 'The capability that the name stands for; NULL for "main".';
COMMENT ON COLUMN topic_bindings.state_topic IS 'Where the device reports; NULL: it does not.';
COMMENT ON COLUMN topic_bindings.command_topic IS 'Where the device listens; NULL: it does not.';
COMMENT ON COLUMN topic_bindings.merge IS
    'What a report on the state topic does to the last known value: false replaces it, true is a JSON merge patch (RFC 7396) to it.';

CREATE TRIGGER topic_bindings_touch
    BEFORE UPDATE ON topic_bindings FOR EACH ROW
    WHEN ((OLD.device_id, OLD.name, OLD.state_topic, OLD.command_topic, OLD.merge)
        IS DISTINCT FROM (NEW.device_id, NEW.name, NEW.state_topic, NEW.command_topic, NEW.merge))
    EXECUTE FUNCTION fleetgate_touch();

CREATE TABLE topic_grants (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id bigint NOT NULL REFERENCES devices ON DELETE CASCADE,
    action text COLLATE "C" NOT NULL,
    topic_filter text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT topic_grants_unique UNIQUE (device_id, action, topic_filter),
    CONSTRAINT topic_grants_action_known CHECK (action IN ('publish', 'subscribe')),
    CONSTRAINT topic_grants_topic_filter_form CHECK (fleetgate_is_grant_filter(topic_filter))
);

COMMENT ON TABLE topic_grants IS 'Rights beyond the bindings, for services above all.';
COMMENT ON COLUMN topic_grants.topic_filter IS
    'publish: the device may publish to any topic it matches. subscribe: the device may subscribe to any filter it covers.';

-- Commands ------------------------------------------------------------------------------------

CREATE TABLE routing_rules (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    capability text COLLATE "C" NOT NULL,
    selector jsonb NOT NULL DEFAULT '{}',
    strategy text COLLATE "C" NOT NULL DEFAULT 'all',
    priority integer NOT NULL DEFAULT 0,
    enabled boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT routing_rules_name_unique UNIQUE (name),
    CONSTRAINT routing_rules_name_form CHECK (fleetgate_is_name(name)),
    CONSTRAINT routing_rules_capability FOREIGN KEY (capability) REFERENCES capabilities,
    CONSTRAINT routing_rules_selector_form CHECK (jsonb_typeof(selector) = 'object'),
    CONSTRAINT routing_rules_strategy_known CHECK (strategy IN ('all', 'any'))
);
CREATE INDEX routing_rules_by_capability ON routing_rules (capability, priority DESC, id);

COMMENT ON TABLE routing_rules IS 'Sends a capability''s commands to the devices that match a selector.';
COMMENT ON COLUMN routing_rules.selector IS 'A JSON object that says which devices; {} means every device with the capability.';
COMMENT ON COLUMN routing_rules.strategy IS 'all: every match gets the command. any: one match does.';
COMMENT ON COLUMN routing_rules.priority IS 'The higher number is asked first; equal numbers in order of id.';

CREATE TRIGGER routing_rules_touch
    BEFORE UPDATE ON routing_rules FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
    EXECUTE FUNCTION fleetgate_touch();

-- Who serves ----------------------------------------------------------------------------------

-- The tables belong to one role, the owner, which migrates; `fleetgate serve` and the commands
-- connect as another one, which may read and write rows and nothing more. `fleetgate migrate` grants it that,
-- and grants it again after each later migration: so it must know for whom.

CREATE TABLE serving_roles (
    name text COLLATE "C" PRIMARY KEY,
    granted_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE serving_roles IS
    'The roles named by `fleetgate migrate --grant-to`. Every migration grants them what serving needs on the tables of then. No serving role may read or change this table.';
COMMENT ON COLUMN serving_roles.name IS 'A role of this server. One that is gone is passed over.';
COMMENT ON COLUMN serving_roles.granted_at IS 'When it was named first.';
