-- Which token of the HTTP API asked for a command: once it is revoked, nothing that it asked for is sent any more.

SET LOCAL lock_timeout = '10s';

ALTER TABLE commands ADD COLUMN token_id bigint;
COMMENT ON COLUMN commands.token_id IS
    'The token of the HTTP API that asked for it, by its row in api_tokens; NULL: another way, or a release that did not note it.';
