-- What events of the bus become: sessions, last known values, the last report that broke its schema.

-- Sessions ------------------------------------------------------------------------------------

ALTER TABLE client_sessions
    ADD COLUMN noted_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN inferred boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT client_sessions_inferred CHECK (NOT (inferred AND open));
COMMENT ON COLUMN client_sessions.noted_at IS
    'When the row was last written, by PostgreSQL''s clock. A sweep leaves alone what was written after it began to read.';
COMMENT ON COLUMN client_sessions.inferred IS
    'The end was concluded by a sweep, not told by an event. Only such an end can be taken back, by an event of the same session.';

-- Last known values ---------------------------------------------------------------------------

ALTER TABLE device_state
    ADD COLUMN last_violation jsonb,
    ADD CONSTRAINT device_state_last_violation_form CHECK (jsonb_typeof(last_violation) = 'object');
COMMENT ON COLUMN device_state.state IS
    'Last known values by binding name: {"value", "at", "id"}, at in ms since 1970 by the broker''s clock, id that of the message. No "value": an empty payload has cleared it, and the entry stays to keep late reports out.';
COMMENT ON COLUMN device_state.last_violation IS
    'The newest report that broke its capability''s schema: {"at", "binding", "pointer", "message"}. The report itself is stored nowhere.';

-- The order of src/registry/reports.rs. Comparing jsonb cannot fail, whatever somebody may have
-- written there by hand; an entry without time counts as older than any other.

CREATE FUNCTION fleetgate_is_newer_report(report jsonb, known jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN coalesce((report -> 'at', (report ->> 'id') COLLATE "C") > (known -> 'at', (known ->> 'id') COLLATE "C"), true);
COMMENT ON FUNCTION fleetgate_is_newer_report(jsonb, jsonb) IS
    'Whether a report comes after the one that is known: by time, then by message id in bytes.';

CREATE FUNCTION fleetgate_newer_reports(known jsonb, reported jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    BEGIN ATOMIC
        SELECT coalesce(jsonb_object_agg(report.key, report.value), '{}')
        FROM jsonb_each(reported) AS report
        WHERE fleetgate_is_newer_report(report.value, known -> report.key);
    END;
COMMENT ON FUNCTION fleetgate_newer_reports(jsonb, jsonb) IS
    'Those of the reported values, by binding name, that are newer than what is known.';

CREATE FUNCTION fleetgate_is_newer_violation(violation jsonb, known jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN violation IS NOT NULL AND coalesce(
        (violation -> 'at', (violation ->> 'binding') COLLATE "C", (violation ->> 'pointer') COLLATE "C", (violation ->> 'message') COLLATE "C")
        > (known -> 'at', (known ->> 'binding') COLLATE "C", (known ->> 'pointer') COLLATE "C", (known ->> 'message') COLLATE "C"), true);
COMMENT ON FUNCTION fleetgate_is_newer_violation(jsonb, jsonb) IS
    'Whether a violation comes after the one that is known; those of one moment have an order too, so that it does not matter which is heard first.';

-- Changed schemas -----------------------------------------------------------------------------

CREATE FUNCTION fleetgate_notify_capability() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM pg_notify('fleetgate_capability', '');
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('fleetgate_capability', OLD.name);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('fleetgate_capability', NEW.name);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_notify_capability() IS
    'Announces on the channel fleetgate_capability a capability that changed, under its old and its new name; empty when all may have.';

CREATE TRIGGER capabilities_notify_existence
    AFTER INSERT OR DELETE ON capabilities FOR EACH ROW EXECUTE FUNCTION fleetgate_notify_capability();
CREATE TRIGGER capabilities_notify_change
    AFTER UPDATE OF name, state_schema, command_schema ON capabilities FOR EACH ROW
    WHEN ((OLD.name, OLD.state_schema, OLD.command_schema) IS DISTINCT FROM (NEW.name, NEW.state_schema, NEW.command_schema))
    EXECUTE FUNCTION fleetgate_notify_capability();
CREATE TRIGGER capabilities_notify_truncate
    AFTER TRUNCATE ON capabilities FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_notify_capability();
