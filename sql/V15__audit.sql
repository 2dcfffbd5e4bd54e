-- The audit log: who changed what, and when. It is written by triggers in the transaction of the change, whoever makes it:
-- the command line, the service, somebody in psql.
--
-- 1. An entry is there exactly if the change is. No serving role can write, change or remove one (fleetgate_prune_audit()
--    removes what is older than a week at least); the owner of the tables can.
-- 2. Entries tell the columns that are named here, and no other: a new column of a table is never in the log by accident, and
--    no hash is. That a hash was replaced is told.
-- 3. Presence, reports and the like call none of these triggers.
-- 4. With the rows of the log, in the order of id, the tables can be made again: but for ids, hashes and timestamps, and
--    values larger than 64 KiB, of which the log has size and SHA-256.

-- Logins wait while the triggers are made: rather fail, and be tried again, than let them wait for somebody's long transaction.
SET LOCAL lock_timeout = '10s';

CREATE TABLE audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text COLLATE "C",
    role text COLLATE "C" NOT NULL DEFAULT session_user,
    subject text COLLATE "C" NOT NULL,
    action text COLLATE "C" NOT NULL,
    device_id bigint,
    device text COLLATE "C",
    name text COLLATE "C",
    before jsonb,
    after jsonb,
    CONSTRAINT audit_action_known CHECK (action IN ('added', 'changed', 'removed', 'emptied'))
);
CREATE INDEX audit_by_time ON audit (at);
CREATE INDEX audit_by_device ON audit (device_id, id) WHERE device_id IS NOT NULL;
CREATE INDEX audit_by_device_name ON audit (device) WHERE subject = 'device';

COMMENT ON TABLE audit IS 'The audit log: who changed what. Written by triggers only.';
COMMENT ON COLUMN audit.id IS 'The order of the entries of a transaction, and nearly that of all: of two transactions at once the later one may have the lower.';
COMMENT ON COLUMN audit.actor IS
    'Who acts, as Fleetgate says (src/fleet/actor.rs); NULL: nobody said, or the role is none that Fleetgate connects as. Then role tells.';
COMMENT ON COLUMN audit.role IS 'The role that logged in to PostgreSQL (session_user).';
COMMENT ON COLUMN audit.subject IS
    'What sort of thing changed: device, credential, capability, device_capability, binding, grant, rule, pause, command.';
COMMENT ON COLUMN audit.action IS 'added, changed, removed; emptied: the whole table, by TRUNCATE.';
COMMENT ON COLUMN audit.device_id IS 'The row of the device that the thing is or belongs to; it may be gone.';
COMMENT ON COLUMN audit.device IS 'The device''s name, before the change.';
COMMENT ON COLUMN audit.name IS 'What names the thing: its name, or its number as commands list it; before the change.';
COMMENT ON COLUMN audit.before IS 'What it was: of a change the columns that changed. Of an emptied table the number of rows.';
COMMENT ON COLUMN audit.after IS 'What it is: of a change the columns that changed.';

CREATE FUNCTION fleetgate_audited_value(value jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN octet_length(value::text) > 65536
        THEN jsonb_build_object('bytes', octet_length(value::text), 'sha256', encode(sha256(convert_to(value::text, 'UTF8')), 'hex'))
        ELSE value END;
COMMENT ON FUNCTION fleetgate_audited_value(jsonb) IS 'A value as the audit log tells it: of what is larger than 64 KiB size and hash.';

CREATE FUNCTION fleetgate_audited_device(id bigint) RETURNS text
    LANGUAGE plpgsql STABLE STRICT SET search_path FROM CURRENT AS $$
BEGIN
    RETURN (SELECT name FROM devices WHERE devices.id = fleetgate_audited_device.id);
END
$$;
COMMENT ON FUNCTION fleetgate_audited_device(bigint) IS 'The name of the device with this id, for the audit log.';

CREATE FUNCTION fleetgate_actor() RETURNS text
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    -- Anybody may say anything. Called by SECURITY DEFINER functions only, where current_user is the owner.
    IF session_user = current_user OR EXISTS (SELECT FROM serving_roles WHERE serving_roles.name = session_user) THEN
        RETURN left(nullif(current_setting('fleetgate.actor', true), ''), 256);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_actor() IS
    'Who acts, as the setting fleetgate.actor says; believed of the owner of the tables and of serving roles.';

-- Whoever may call the functions below could make them triggers of a table of their own, and write what they like.
CREATE FUNCTION fleetgate_check_audited(logged oid) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    IF (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE pg_class.oid = logged) <> current_user THEN
        RAISE insufficient_privilege USING MESSAGE = 'only tables of the owner of the audit log are logged';
    END IF;
END
$$;
COMMENT ON FUNCTION fleetgate_check_audited(oid) IS 'Refuses tables that are not the owner''s, who is current_user where this is called.';

-- Runs as the owner, who alone may write the log. Arguments: the subject; whether a row is a device; the columns of which only
-- is told that they were replaced. What is told of a row is said by the functions that fleetgate_keep_audit() makes.
CREATE FUNCTION fleetgate_audit() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    kind text := TG_ARGV[0];
    is_device boolean := TG_ARGV[1];
    secrets text[] := TG_ARGV[2];
    who text := fleetgate_actor();
    owner_id bigint;
    owner_name text;
    was jsonb;
    is_now jsonb;
    rows bigint;
BEGIN
    PERFORM fleetgate_check_audited(TG_RELID);
    PERFORM pg_notify('fleetgate_audit', '');

    IF TG_OP = 'TRUNCATE' THEN
        EXECUTE format('SELECT count(*) FROM %s', TG_RELID::regclass) INTO rows;
        INSERT INTO audit (actor, subject, action, before) VALUES (who, kind, 'emptied', jsonb_build_object('rows', rows));
        RETURN NULL;
    END IF;

    owner_id := fleetgate_audit_device_id(OLD);
    -- What goes with its device finds the device gone, and the entry of that written: it comes from a BEFORE trigger.
    IF is_device THEN
        owner_name := fleetgate_audit_name(OLD);
    ELSIF owner_id IS NOT NULL THEN
        owner_name := coalesce(fleetgate_audited_device(owner_id),
            (SELECT entry.device FROM audit AS entry WHERE entry.device_id = owner_id ORDER BY entry.id DESC LIMIT 1));
    END IF;
    was := fleetgate_audited(OLD);
    IF TG_OP = 'UPDATE' THEN
        is_now := fleetgate_audited(NEW);
        IF owner_id IS NOT DISTINCT FROM fleetgate_audit_device_id(NEW) THEN
            SELECT coalesce(jsonb_object_agg(key, value), '{}'), coalesce(jsonb_object_agg(key, is_now -> key), '{}') INTO was, is_now
            FROM jsonb_each(was) WHERE value IS DISTINCT FROM is_now -> key;
            IF secrets <> '{}' THEN
                SELECT is_now || coalesce(jsonb_object_agg(secret.name, 'replaced'), '{}') INTO is_now
                FROM unnest(secrets) AS secret (name) WHERE to_jsonb(OLD) -> secret.name IS DISTINCT FROM to_jsonb(NEW) -> secret.name;
            END IF;
            INSERT INTO audit (actor, subject, action, device_id, device, name, before, after)
            VALUES (who, kind, 'changed', owner_id, owner_name, fleetgate_audit_name(OLD), was, is_now);
            RETURN NULL;
        END IF;
    END IF;
    INSERT INTO audit (actor, subject, action, device_id, device, name, before)
    VALUES (who, kind, 'removed', owner_id, owner_name, fleetgate_audit_name(OLD), was);
    -- One that is given to another device.
    IF TG_OP = 'UPDATE' THEN
        owner_id := fleetgate_audit_device_id(NEW);
        INSERT INTO audit (actor, subject, action, device_id, device, name, after)
        VALUES (who, kind, 'added', owner_id, fleetgate_audited_device(owner_id), fleetgate_audit_name(NEW), is_now);
    END IF;
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION fleetgate_audit() IS 'Writes that a row was changed or removed, or all were, into the audit log.';

CREATE FUNCTION fleetgate_keep_audit(
    logged regclass, subject text, device_column text, name_column text, columns text[], secrets text[] DEFAULT '{}'
) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    base text := (SELECT relname FROM pg_class WHERE oid = logged);
    call text := format('EXECUTE FUNCTION fleetgate_audit(%L, %L, %L)', subject, device_column IS NOT DISTINCT FROM 'id', secrets);
    contents text := (SELECT string_agg(
            CASE WHEN one = 'gateway' THEN format('%L, fleetgate_audited_device(logged.%I)', one, one)
                 WHEN atttypid IN ('jsonb'::regtype, 'text'::regtype) THEN format('%L, fleetgate_audited_value(to_jsonb(logged.%I))', one, one)
                 ELSE format('%L, logged.%I', one, one) END, ', ' ORDER BY place)
        FROM unnest(columns) WITH ORDINALITY AS told (one, place) JOIN pg_attribute ON attrelid = logged AND attname = one);
    decisive text[] := ARRAY(SELECT DISTINCT one FROM unnest(columns || secrets || nullif(device_column, 'id')) AS one WHERE one IS NOT NULL);
    olds text := (SELECT string_agg(format('OLD.%I', one), ', ') FROM unnest(decisive) AS one);
    news text := (SELECT string_agg(format('NEW.%I', one), ', ') FROM unnest(decisive) AS one);
BEGIN
    -- Expressions that PostgreSQL puts into the statements that call them.
    EXECUTE format('CREATE OR REPLACE FUNCTION fleetgate_audited(logged %s) RETURNS jsonb LANGUAGE sql STABLE RETURN jsonb_build_object(%s)',
        logged, contents);
    EXECUTE format('CREATE OR REPLACE FUNCTION fleetgate_audit_device_id(logged %s) RETURNS bigint LANGUAGE sql IMMUTABLE RETURN %s',
        logged, coalesce('logged.' || quote_ident(device_column), 'NULL::bigint'));
    EXECUTE format('CREATE OR REPLACE FUNCTION fleetgate_audit_name(logged %s) RETURNS text LANGUAGE sql IMMUTABLE RETURN logged.%I::text',
        logged, name_column);
    -- One call a statement where rows are added: COPY brings thousands. Not so for changes: a trigger that is called for
    -- some columns only cannot have the rows together, and presence must call none. The rows of a transition table have no
    -- type of their own, so that each table has a function of its own.
    EXECUTE format('CREATE OR REPLACE FUNCTION %I() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path TO %I, pg_temp SET timezone = ''UTC'' AS %L',
        'fleetgate_audit_' || base, current_schema(), format('
BEGIN
    PERFORM fleetgate_check_audited(TG_RELID);
    INSERT INTO audit (actor, subject, action, device_id, device, name, after)
    SELECT who, TG_ARGV[0], ''added'', device_id, %1$s, name, contents
    FROM fleetgate_actor() AS who,
         (SELECT fleetgate_audit_device_id(ROW(added.*)::%2$s) AS device_id, fleetgate_audit_name(ROW(added.*)::%2$s) AS name,
                 fleetgate_audited(ROW(added.*)::%2$s) AS contents FROM added) AS logged;
    PERFORM pg_notify(''fleetgate_audit'', '''');
    RETURN NULL;
END
', CASE device_column WHEN 'id' THEN 'name' ELSE 'fleetgate_audited_device(device_id)' END, logged));
    EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER INSERT ON %s REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION %I(%L)',
        base || '_audit_added', logged, 'fleetgate_audit_' || base, subject);
    EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER UPDATE OF %s ON %s FOR EACH ROW WHEN (ROW(%s) IS DISTINCT FROM ROW(%s)) %s',
        base || '_audit_changed', (SELECT string_agg(format('%I', one), ', ') FROM unnest(decisive) AS one), logged, olds, news, call);
    EXECUTE format('CREATE OR REPLACE TRIGGER %I %s DELETE ON %s FOR EACH ROW %s',
        base || '_audit_removed', CASE device_column WHEN 'id' THEN 'BEFORE' ELSE 'AFTER' END, logged, call);
    EXECUTE format('CREATE OR REPLACE TRIGGER %I BEFORE TRUNCATE ON %s FOR EACH STATEMENT %s', base || '_audit_emptied', logged, call);
END
$$;
COMMENT ON FUNCTION fleetgate_keep_audit(regclass, text, text, text, text[], text[]) IS
    'Has the changes of a table written into the audit log: as which subject; the column with the id of the device that a row belongs to ("id": it is one; NULL: none); the column that names a row; the columns that are told; columns of which only is told that they were replaced. May be called again, with other columns.';

-- What is asked of devices: one entry a command, when its deliveries are there.
CREATE FUNCTION fleetgate_audit_commands() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
BEGIN
    PERFORM fleetgate_check_audited(TG_RELID);
    INSERT INTO audit (actor, subject, action, device_id, device, name, after)
    SELECT fleetgate_actor(), 'command', 'added', asked.device_id, asked.device, command.id::text, jsonb_build_object(
        'capability', command.capability, 'devices', asked.devices, 'asked_by', command.asked_by,
        'expires_at', command.expires_at, 'payload_sha256', encode(sha256(convert_to(command.payload, 'UTF8')), 'hex'))
    FROM (SELECT command_id, count(*) AS devices, min(position) AS place,
                 CASE count(*) WHEN 1 THEN min(added.device_id) END AS device_id,
                 CASE count(*) WHEN 1 THEN min(device_name) END AS device
          FROM added GROUP BY command_id) AS asked
    JOIN commands AS command ON command.id = asked.command_id
    ORDER BY place;
    PERFORM pg_notify('fleetgate_audit', '');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_audit_commands() IS
    'Writes a command into the audit log: who, what, to how many devices, the hash of the payload.';
CREATE TRIGGER command_deliveries_audit_added
    AFTER INSERT ON command_deliveries REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_audit_commands();

-- Whoever has the password of a serving role may ask for any time: so nothing younger than a week goes, whatever is asked for.
CREATE FUNCTION fleetgate_prune_audit(keep interval, most integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    pruned bigint;
BEGIN
    DELETE FROM audit WHERE id IN (
        SELECT old.id FROM audit AS old WHERE old.at < clock_timestamp() - greatest(keep, interval '7 days')
        ORDER BY old.at LIMIT most FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS pruned = ROW_COUNT;
    RETURN pruned;
END
$$;
COMMENT ON FUNCTION fleetgate_prune_audit(interval, integer) IS
    'Removes entries of the audit log that are older than that, and older than a week: the oldest first, so many at most. Returns how many.';

-- These run as the owner: nobody's temporary table may pass for one of ours.
DO $$
DECLARE
    called regprocedure;
BEGIN
    FOREACH called IN ARRAY ARRAY['fleetgate_audit()', 'fleetgate_audit_commands()', 'fleetgate_prune_audit(interval, integer)',
        'fleetgate_audited_device(bigint)', 'fleetgate_check_audited(oid)', 'fleetgate_actor()']::regprocedure[]
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path TO %I, pg_temp', called, current_schema());
    END LOOP;
END
$$;

DO $$
BEGIN
    PERFORM fleetgate_keep_audit('devices', 'device', 'id', 'name',
        '{name,client_id,area,floor,kind,gateway,availability_topic,enabled,meta}');
    PERFORM fleetgate_keep_audit('device_credentials', 'credential', 'device_id', 'id',
        '{kind,common_name,certificate_required,label,not_before,expires_at,revoked_at}', '{hash}');
    PERFORM fleetgate_keep_audit('capabilities', 'capability', NULL, 'name',
        '{name,description,state_schema,command_schema,confirm,command_expiry,ack_timeout,only_latest,answer_in,envelope}');
    PERFORM fleetgate_keep_audit('device_capabilities', 'device_capability', 'device_id', 'capability', '{capability}');
    PERFORM fleetgate_keep_audit('topic_bindings', 'binding', 'device_id', 'name', '{name,state_topic,command_topic,reply_topic,merge}');
    PERFORM fleetgate_keep_audit('topic_grants', 'grant', 'device_id', 'id', '{action,topic_filter}');
    PERFORM fleetgate_keep_audit('routing_rules', 'rule', NULL, 'name', '{name,capability,selector,strategy,priority,enabled}');
    PERFORM fleetgate_keep_audit('command_pauses', 'pause', NULL, 'capability', '{capability,paused_by}');
END
$$;
