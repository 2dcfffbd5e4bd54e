-- Where one gateway has a large share of all devices, PostgreSQL expects to find children wherever it looks, and would read
-- all devices to find that a device has none: at each connect, and for each child that is added. So these read the index on
-- devices.gateway, as the functions of V4 and V5 do with theirs.

ALTER FUNCTION fleetgate_check_gateway() SET enable_seqscan = off;
ALTER FUNCTION fleetgate_wake_commands_of_device(bigint) SET enable_seqscan = off;
