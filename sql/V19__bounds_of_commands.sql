-- What commands cost stays bounded: selectors, what waits, what is looked for.

CREATE FUNCTION fleetgate_at(document jsonb, path text[]) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    found jsonb := document;
    token text;
BEGIN
    FOREACH token IN ARRAY path LOOP
        found := CASE
            WHEN jsonb_typeof(found) <> 'array' THEN found -> token
            WHEN token ~ '^(0|[1-9][0-9]{0,8})$' THEN found -> token::integer END;
        EXIT WHEN found IS NULL;
    END LOOP;
    RETURN found;
END
$$;
COMMENT ON FUNCTION fleetgate_at(jsonb, text[]) IS
    'The value at a JSON Pointer (RFC 6901), given as its tokens; NULL where there is none. Unlike #> it takes -1 and 01 for no places in arrays.';

-- Every few seconds it is looked for what has expired, wherever it stands in its line.
ALTER TABLE command_deliveries ADD COLUMN command_expires_at timestamptz;
UPDATE command_deliveries AS delivery SET command_expires_at = command.expires_at
FROM commands AS command WHERE command.id = delivery.command_id AND delivery.ended_at IS NULL;
CREATE INDEX command_deliveries_by_expiry ON command_deliveries (command_expires_at) WHERE ended_at IS NULL;
COMMENT ON COLUMN command_deliveries.command_expires_at IS 'When its command expires; NULL: it had ended before this was kept.';

CREATE INDEX command_requests_waiting ON command_requests (service_id) WHERE answer IS NULL;
