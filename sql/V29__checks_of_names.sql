-- The rules of names, binding topics and timestamps, the same as in V1, in plpgsql: each of them is in CHECK constraints of tables that
-- events write. PostgreSQL prepares a table's constraints for each statement, and puts the parsed body of an SQL function in
-- place of its call each time, which cost a batch of events an eighth (docs/PERFORMANCE.md). None of them calls another function
-- of ours: a dump is restored with an empty search path.

CREATE OR REPLACE FUNCTION fleetgate_is_name(value text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN octet_length(value) BETWEEN 1 AND 128
        AND value !~ '[+#/$]'
        AND value !~ '[\u0001-\u001F\u007F-\u009F]'
        AND value = btrim(value, U&' \00A0\1680\2000\2001\2002\2003\2004\2005\2006\2007\2008\2009\200A\2028\2029\202F\205F\3000');
END
$$;

CREATE OR REPLACE FUNCTION fleetgate_is_binding_topic(value text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN octet_length(value) BETWEEN 1 AND 1024
        AND value !~ '[+#]'
        AND value !~ '[\u0001-\u001F\u007F-\u009F]'
        AND NOT starts_with(value, '$') AND strpos(value, '${') = 0
        AND value !~ '^eq |%[uc](?![A-Za-z0-9])';
END
$$;

CREATE OR REPLACE FUNCTION fleetgate_is_valid_timestamp(value timestamptz) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN value >= '0001-01-01 00:00:00+00'::timestamptz AND value < '9999-01-01 00:00:00+00'::timestamptz;
END
$$;
