-- API tokens are in the audit log (V15): who made, changed and revoked them.

SET LOCAL lock_timeout = '10s';

DO $$
BEGIN
    PERFORM fleetgate_keep_audit('api_tokens', 'token', NULL, 'name', '{name,scopes,expires_at,revoked_at}', '{hash}');
END
$$;
COMMENT ON COLUMN audit.subject IS
    'What sort of thing changed: device, credential, capability, device_capability, binding, grant, rule, pause, command, token.';
