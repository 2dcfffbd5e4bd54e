-- Old entries of the audit log are removed by those who serve, and by nobody else who may log in to the database.

REVOKE EXECUTE ON FUNCTION fleetgate_prune_audit(interval, integer) FROM PUBLIC;
