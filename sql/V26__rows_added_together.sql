-- What triggers do for a row that is added, they do for all rows of a statement together, as the audit log does (V15): an import
-- adds thousands, and what was done for each cost PostgreSQL several times what the rows themselves do. What is promised of
-- it is the same as before; of rows that are changed or removed, triggers are called one by one as before.

-- Logins wait while the triggers are replaced: rather fail, and be tried again, than let them wait for somebody's long transaction.
SET LOCAL lock_timeout = '10s';

-- Notices (V3, V12) -----------------------------------------------------------------------------

-- Locked in the order of ids. The index is read whatever PostgreSQL expects, as in V13. What is read of devices that are
-- locked so is a statement of its own: who waited for a change of a device sees what it changed.
CREATE FUNCTION fleetgate_hold_devices(ids bigint[]) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    PERFORM FROM devices WHERE id = ANY (ids) ORDER BY id FOR KEY SHARE;
END
$$;
COMMENT ON FUNCTION fleetgate_hold_devices(bigint[]) IS
    'Makes a rename of these devices in another transaction wait for the end of this one, and waits for one that is under way; so with what makes a device a child, or takes it from its gateway. Presence does not wait.';

CREATE FUNCTION fleetgate_notify_by_ids(ids bigint[]) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    PERFORM fleetgate_hold_devices(ids);
    PERFORM pg_notify('fleetgate_device', name) FROM devices WHERE id = ANY (ids);
END
$$;
COMMENT ON FUNCTION fleetgate_notify_by_ids(bigint[]) IS
    'Announces those of these devices that are still there, and makes a rename of them in another transaction wait.';

CREATE FUNCTION fleetgate_notify_new_devices() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    gateways bigint[] := ARRAY(SELECT DISTINCT gateway FROM added WHERE gateway IS NOT NULL);
BEGIN
    PERFORM pg_notify('fleetgate_device', name) FROM added;
    IF cardinality(gateways) > 0 THEN
        PERFORM fleetgate_notify_by_ids(gateways);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_notify_new_devices() IS 'Announces devices that were added, and their gateways.';

CREATE FUNCTION fleetgate_notify_owners() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    owners bigint[] := ARRAY(SELECT DISTINCT device_id FROM added);
    gateways bigint[];
BEGIN
    IF cardinality(owners) = 0 THEN
        RETURN NULL;
    END IF;
    PERFORM fleetgate_notify_by_ids(owners);
    SELECT array_agg(DISTINCT gateway) FILTER (WHERE gateway IS NOT NULL) INTO gateways FROM devices WHERE id = ANY (owners);
    IF gateways IS NOT NULL THEN
        PERFORM fleetgate_notify_by_ids(gateways);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_notify_owners() IS
    'Announces the devices whose rows were added in another table, and their gateways.';

DROP TRIGGER devices_notify_existence ON devices;
CREATE TRIGGER devices_notify_new AFTER INSERT ON devices
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_notify_new_devices();
CREATE TRIGGER devices_notify_gone
    AFTER DELETE ON devices FOR EACH ROW EXECUTE FUNCTION fleetgate_notify_device();

DROP TRIGGER device_credentials_notify_existence ON device_credentials;
CREATE TRIGGER device_credentials_notify_new AFTER INSERT ON device_credentials
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_notify_owners();
CREATE TRIGGER device_credentials_notify_gone
    AFTER DELETE ON device_credentials FOR EACH ROW EXECUTE FUNCTION fleetgate_notify_owner();

DROP TRIGGER topic_bindings_notify_existence ON topic_bindings;
CREATE TRIGGER topic_bindings_notify_new AFTER INSERT ON topic_bindings
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_notify_owners();
CREATE TRIGGER topic_bindings_notify_gone
    AFTER DELETE ON topic_bindings FOR EACH ROW EXECUTE FUNCTION fleetgate_notify_owner();

DROP TRIGGER topic_grants_notify_existence ON topic_grants;
CREATE TRIGGER topic_grants_notify_new AFTER INSERT ON topic_grants
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_notify_owners();
CREATE TRIGGER topic_grants_notify_gone
    AFTER DELETE ON topic_grants FOR EACH ROW EXECUTE FUNCTION fleetgate_notify_owner();

-- No valid credential of a child (V12) ----------------------------------------------------------

CREATE FUNCTION fleetgate_check_credentials_of_children() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    owners bigint[] := ARRAY(SELECT DISTINCT device_id FROM added
        WHERE revoked_at IS NULL AND coalesce(expires_at > clock_timestamp(), true));
    child text;
BEGIN
    IF cardinality(owners) = 0 THEN
        RETURN NULL;
    END IF;
    PERFORM fleetgate_refuse_repeatable_read('a credential');
    PERFORM fleetgate_hold_devices(owners);
    SELECT min(name) FILTER (WHERE gateway IS NOT NULL) INTO child FROM devices WHERE id = ANY (owners);
    IF child IS NOT NULL THEN
        RAISE EXCEPTION 'device "%" is behind a gateway and cannot have a valid credential', child
            USING ERRCODE = 'check_violation', TABLE = 'device_credentials', CONSTRAINT = 'device_credentials_of_child';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_check_credentials_of_children() IS 'Refuses valid credentials of children among those that were added.';

DROP TRIGGER device_credentials_check_child ON device_credentials;
CREATE TRIGGER device_credentials_check_child_new AFTER INSERT ON device_credentials
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_check_credentials_of_children();
CREATE TRIGGER device_credentials_check_child
    AFTER UPDATE OF device_id, expires_at, revoked_at ON device_credentials FOR EACH ROW
    WHEN (NEW.revoked_at IS NULL)
    EXECUTE FUNCTION fleetgate_check_credential_of_child();

-- The audit log (V15) ---------------------------------------------------------------------------

-- It was called immutable, which it is not (convert_to() is stable): PostgreSQL does not put such a function into the statements
-- that call it, and calling it for each text of a row cost more than the row.
CREATE OR REPLACE FUNCTION fleetgate_audited_value(value jsonb) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE WHEN octet_length(value::text) > 65536
        THEN jsonb_build_object('bytes', octet_length(value::text), 'sha256', encode(sha256(convert_to(value::text, 'UTF8')), 'hex'))
        ELSE value END;

-- As before, but that the name of the device that an added row belongs to is looked up by the statement itself.
CREATE OR REPLACE FUNCTION fleetgate_keep_audit(
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
    -- type of their own, so that each table has a function of its own. It reads the index of devices whatever PostgreSQL
    -- expects, as in V13.
    EXECUTE format('CREATE OR REPLACE FUNCTION %I() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path TO %I, pg_temp SET timezone = ''UTC'' SET enable_seqscan = off AS %L',
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
', CASE device_column WHEN 'id' THEN 'name' ELSE '(SELECT owner.name FROM devices AS owner WHERE owner.id = logged.device_id)' END, logged));
    EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER INSERT ON %s REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION %I(%L)',
        base || '_audit_added', logged, 'fleetgate_audit_' || base, subject);
    EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER UPDATE OF %s ON %s FOR EACH ROW WHEN (ROW(%s) IS DISTINCT FROM ROW(%s)) %s',
        base || '_audit_changed', (SELECT string_agg(format('%I', one), ', ') FROM unnest(decisive) AS one), logged, olds, news, call);
    EXECUTE format('CREATE OR REPLACE TRIGGER %I %s DELETE ON %s FOR EACH ROW %s',
        base || '_audit_removed', CASE device_column WHEN 'id' THEN 'BEFORE' ELSE 'AFTER' END, logged, call);
    EXECUTE format('CREATE OR REPLACE TRIGGER %I BEFORE TRUNCATE ON %s FOR EACH STATEMENT %s', base || '_audit_emptied', logged, call);
END
$$;

DO $$
BEGIN
    PERFORM fleetgate_keep_audit('device_credentials', 'credential', 'device_id', 'id',
        '{kind,common_name,certificate_required,label,not_before,expires_at,revoked_at}', '{hash}');
    PERFORM fleetgate_keep_audit('device_capabilities', 'device_capability', 'device_id', 'capability', '{capability}');
    PERFORM fleetgate_keep_audit('topic_bindings', 'binding', 'device_id', 'name', '{name,state_topic,command_topic,reply_topic,merge}');
    PERFORM fleetgate_keep_audit('topic_grants', 'grant', 'device_id', 'id', '{action,topic_filter}');
END
$$;
