-- Commands that are asked for over the HTTP API with an idempotency key: asked again, the same command is shown, and none is
-- sent. A row goes with its command, commands.keep after that has ended.

CREATE TABLE api_requests (
    token_id bigint NOT NULL REFERENCES api_tokens,
    key text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    command_id uuid NOT NULL REFERENCES commands ON DELETE CASCADE,
    PRIMARY KEY (token_id, key),
    CONSTRAINT api_requests_key_form CHECK (octet_length(key) BETWEEN 1 AND 255 AND NOT fleetgate_has_control(key)),
    CONSTRAINT api_requests_digest_form CHECK (octet_length(digest) = 32)
);
CREATE INDEX api_requests_by_command ON api_requests (command_id);
COMMENT ON TABLE api_requests IS 'Which command an idempotency key stands for.';
COMMENT ON COLUMN api_requests.token_id IS 'Whose key it is: another token''s is another key.';
COMMENT ON COLUMN api_requests.digest IS 'SHA-256 of the request: the same key with another request is refused.';
