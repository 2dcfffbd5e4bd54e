-- What devices report: last known values, the last report that broke its schema.

CREATE TABLE device_state (
    device_id bigint PRIMARY KEY REFERENCES devices ON DELETE CASCADE,
    last_seen timestamptz,
    state jsonb NOT NULL DEFAULT '{}',
    last_violation jsonb,
    merges jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT device_state_last_seen_valid CHECK (fleetgate_is_valid_timestamp(last_seen)),
    CONSTRAINT device_state_state_form CHECK (jsonb_typeof(state) = 'object'),
    CONSTRAINT device_state_last_violation_form CHECK (jsonb_typeof(last_violation) = 'object'),
    CONSTRAINT device_state_merges_form CHECK (jsonb_typeof(merges) = 'object')
) WITH (fillfactor = 70);

COMMENT ON TABLE device_state IS 'What was last heard of a device. Rewritten all the time: nothing but the key is indexed (HOT updates).';
COMMENT ON COLUMN device_state.last_seen IS
    'When the device was last heard, by the broker''s clock, but never later than it was noted. What the broker concludes or says for it (a keepalive that ran out, a take-over, a will) is not hearing it.';
COMMENT ON COLUMN device_state.state IS
    'Last known values by binding name: {"value", "at", "id"}, at in ms since 1970 by the broker''s clock, id that of the message. No "value": an empty payload has cleared it, and the entry stays to keep late reports out. at is never later than it was noted: "stamp" is then what the broker said, and "untrusted" is true if that was further ahead than clocks may differ.';
COMMENT ON COLUMN device_state.last_violation IS
    'The newest report that broke its capability''s schema: {"at", "binding", "pointer", "message"}, and "stamp" and "untrusted" as in state. The report itself is stored nowhere.';
COMMENT ON COLUMN device_state.merges IS
    'What merged values came from, by binding name: {"tree", "newest", "floor"}. tree: see sql/V5. newest: the stamp of its newest report; if state has another one, that value replaced the merged one and the tree begins anew with it. floor: reports up to this stamp come too late, because which members they must not bring back was forgotten.';

-- The order of reports and violations ---------------------------------------------------------

-- An entry's "at" is never later than it was noted. One that came with a later timestamp has that as
-- "stamp", which orders it, and "untrusted": true if it was further ahead than clocks may differ.

-- STABLE, as to_jsonb() is: PostgreSQL puts a function's body in place of a call only if the function does
-- not promise more than its body keeps, and a call costs ten times as much.

CREATE FUNCTION fleetgate_noted(entry jsonb, noted_ms bigint) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE
        WHEN (entry -> 'at') > to_jsonb(noted_ms)
        THEN entry || jsonb_build_object('at', noted_ms, 'stamp', entry -> 'at')
             || CASE WHEN (entry -> 'at') > to_jsonb(noted_ms + (extract(epoch FROM fleetgate_clock_tolerance()) * 1000)::bigint)
                THEN '{"untrusted": true}'::jsonb ELSE '{}'::jsonb END
        ELSE entry END;
COMMENT ON FUNCTION fleetgate_noted(jsonb, bigint) IS 'An entry as it is stored when it is noted at a time (ms since 1970).';

CREATE TYPE fleetgate_report_order AS (trusted boolean, at jsonb, id text COLLATE "C");
COMMENT ON TYPE fleetgate_report_order IS 'Where a report stands among those of its binding.';

-- Comparing jsonb cannot fail, whatever somebody may have written by hand; an entry without time comes
-- before any other.
CREATE FUNCTION fleetgate_is_trusted_entry(entry jsonb, noted_ms bigint) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(NOT entry ? 'untrusted'
        AND coalesce(entry -> 'stamp', entry -> 'at') <= to_jsonb(noted_ms + (extract(epoch FROM fleetgate_clock_tolerance()) * 1000)::bigint),
        true);
COMMENT ON FUNCTION fleetgate_is_trusted_entry(jsonb, bigint) IS
    'Whether an entry''s timestamp is trusted now. One that lies ahead of now is not, whatever it says.';

CREATE FUNCTION fleetgate_report_order(report jsonb, noted_ms bigint) RETURNS fleetgate_report_order
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN ROW(fleetgate_is_trusted_entry(report, noted_ms), coalesce(report -> 'stamp', report -> 'at', 'null'),
               coalesce(report ->> 'id', ''))::fleetgate_report_order;
COMMENT ON FUNCTION fleetgate_report_order(jsonb, bigint) IS
    'The place of a stored report: trusted ones last, then by time, then by message id in bytes.';

CREATE FUNCTION fleetgate_replaces_report(report jsonb, known jsonb, noted_ms bigint, clock_is_wrong boolean) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN report IS NOT NULL AND (known IS NULL
        OR fleetgate_report_order(report, noted_ms) > fleetgate_report_order(known, noted_ms)
        OR clock_is_wrong AND fleetgate_is_trusted_entry(known, noted_ms) AND NOT fleetgate_is_trusted_entry(report, noted_ms));
COMMENT ON FUNCTION fleetgate_replaces_report(jsonb, jsonb, bigint, boolean) IS
    'Whether a report, as fleetgate_noted() makes it, takes the place of the one that is known. clock_is_wrong: nothing trusted has come of the device for longer than the tolerance, only untrusted things.';

CREATE TYPE fleetgate_violation_order AS (
    trusted boolean, at jsonb, binding text COLLATE "C", pointer text COLLATE "C", message text COLLATE "C");
COMMENT ON TYPE fleetgate_violation_order IS
    'Where a violation stands among those of its device; those of one time have an order too, so that it does not matter which is heard first.';

CREATE FUNCTION fleetgate_violation_order(violation jsonb, noted_ms bigint) RETURNS fleetgate_violation_order
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN ROW(fleetgate_is_trusted_entry(violation, noted_ms), coalesce(violation -> 'stamp', violation -> 'at', 'null'),
               coalesce(violation ->> 'binding', ''), coalesce(violation ->> 'pointer', ''),
               coalesce(violation ->> 'message', ''))::fleetgate_violation_order;
COMMENT ON FUNCTION fleetgate_violation_order(jsonb, bigint) IS 'The place of a stored violation.';

CREATE FUNCTION fleetgate_replaces_violation(violation jsonb, known jsonb, noted_ms bigint, clock_is_wrong boolean) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN violation IS NOT NULL AND (known IS NULL
        OR fleetgate_violation_order(violation, noted_ms) > fleetgate_violation_order(known, noted_ms)
        OR clock_is_wrong AND fleetgate_is_trusted_entry(known, noted_ms) AND NOT fleetgate_is_trusted_entry(violation, noted_ms));
COMMENT ON FUNCTION fleetgate_replaces_violation(jsonb, jsonb, bigint, boolean) IS
    'Whether a violation takes the place of the one that is known, as fleetgate_replaces_report().';

CREATE FUNCTION fleetgate_note_clocks(device_ids bigint[], stamps timestamptz[], nodes text[], noted timestamptz) RETURNS void
    LANGUAGE sql SET search_path FROM CURRENT AS $$
    INSERT INTO untrusted_timestamps AS known (device_id, node, ahead, since, noted_at)
    SELECT DISTINCT ON (id) id, told.node, told.stamp - noted, noted, noted
    FROM unnest(device_ids, stamps, nodes) AS told (device_id, stamp, node)
    JOIN devices ON id = told.device_id
    WHERE fleetgate_is_ahead(told.stamp, noted)
    ORDER BY id, told.stamp DESC
    ON CONFLICT (device_id) DO UPDATE SET node = EXCLUDED.node, ahead = EXCLUDED.ahead, noted_at = EXCLUDED.noted_at;
    DELETE FROM untrusted_timestamps AS known
    USING unnest(device_ids, stamps) AS told (device_id, stamp)
    WHERE known.device_id = told.device_id AND NOT fleetgate_is_ahead(told.stamp, noted)
$$;
COMMENT ON FUNCTION fleetgate_note_clocks(bigint[], timestamptz[], text[], timestamptz) IS
    'Notes which devices'' events come with untrusted timestamps, and forgets those that have come with a trusted one.';

CREATE FUNCTION fleetgate_write_reports(
    device_ids bigint[], stamps timestamptz[], seen timestamptz[], nodes text[], bindings text[], reports jsonb[],
    violations jsonb[], noted timestamptz DEFAULT NULL
) RETURNS bigint[]
    LANGUAGE plpgsql SET search_path FROM CURRENT
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off
AS $$
DECLARE
    noted_ms bigint;
    untrusted bigint;
    doubted bigint[] := '{}';
    -- The newest of each device and binding; of each device a turn for each binding, because PostgreSQL
    -- writes a row once a statement.
    ids bigint[];
    heard timestamptz[];
    names text[];
    newest jsonb[];
    broken jsonb[];
    turns bigint[];
    missing bigint[];
    outdated bigint;
BEGIN
    IF cardinality(device_ids) = 0 THEN
        RETURN ARRAY[0, 0];
    END IF;
    noted := coalesce(noted, clock_timestamp());
    noted_ms := floor(extract(epoch FROM noted) * 1000);
    untrusted := (SELECT count(*) FROM unnest(stamps) AS stamp WHERE fleetgate_is_ahead(stamp, noted));
    SELECT array_agg(device_id), array_agg(last_heard), array_agg(binding), array_agg(report), array_agg(violation), array_agg(turn)
    INTO ids, heard, names, newest, broken, turns
    FROM (SELECT device_id, binding, report, violation,
                 max(last_heard) OVER device AS last_heard,
                 row_number() OVER (device ORDER BY binding NULLS LAST) AS turn
          FROM (SELECT device_id, binding, max(CASE WHEN news.seen > noted THEN noted ELSE news.seen END) AS last_heard,
                       (array_agg(report ORDER BY fleetgate_report_order(report, noted_ms) DESC))[1] AS report,
                       (array_agg(violation ORDER BY fleetgate_violation_order(violation, noted_ms) DESC)
                        FILTER (WHERE violation IS NOT NULL))[1] AS violation
                FROM (SELECT each.device_id, each.seen, each.binding, fleetgate_noted(each.report, noted_ms) AS report,
                             fleetgate_noted(each.violation, noted_ms) AS violation
                      FROM unnest(device_ids, seen, bindings, reports, violations)
                           AS each (device_id, seen, binding, report, violation)) AS news
                GROUP BY device_id, binding) AS merged
          WINDOW device AS (PARTITION BY device_id)) AS item
    WHERE binding IS NOT NULL OR turn = 1 OR violation IS NOT NULL;
    SELECT array_agg(news.device_id) FILTER (WHERE known.device_id IS NULL) INTO missing
    FROM unnest(ids) AS news (device_id)
    LEFT JOIN device_state AS known USING (device_id);
    -- A device that is gone by now has no state.
    IF missing IS NOT NULL THEN
        INSERT INTO device_state (device_id)
        SELECT id FROM devices WHERE id = ANY (missing) ORDER BY id
        ON CONFLICT DO NOTHING;
    END IF;
    IF untrusted > 0 OR EXISTS (SELECT FROM untrusted_timestamps) THEN
        doubted := ARRAY(SELECT device_id FROM untrusted_timestamps
                         WHERE device_id = ANY (device_ids) AND since < noted - fleetgate_clock_tolerance());
        PERFORM fleetgate_note_clocks(device_ids, stamps, nodes, noted);
    END IF;
    outdated := (
        SELECT count(*) FROM unnest(ids, names, newest) AS news (device_id, binding, report)
        JOIN device_state AS known USING (device_id)
        WHERE news.report IS NOT NULL
          AND NOT fleetgate_replaces_report(news.report, known.state -> news.binding, noted_ms, device_id = ANY (doubted)));
    -- What another transaction wrote meanwhile is compared again: PostgreSQL waits for it and then
    -- evaluates these expressions on the row that it left. A row whose values would not change is not
    -- written. A last_seen that lies ahead of now was noted by a clock that was wrong itself.
    FOR this_turn IN 1 .. coalesce((SELECT max(turn) FROM unnest(turns) AS turn), 0) LOOP
        UPDATE device_state AS known SET
            last_seen = greatest(CASE WHEN known.last_seen > noted THEN noted ELSE known.last_seen END, news.last_heard),
            state = CASE
                WHEN fleetgate_replaces_report(news.report, known.state -> news.binding, noted_ms, known.device_id = ANY (doubted))
                THEN known.state || jsonb_build_object(news.binding, news.report) ELSE known.state END,
            last_violation = CASE
                WHEN fleetgate_replaces_violation(news.violation, known.last_violation, noted_ms, known.device_id = ANY (doubted))
                THEN news.violation ELSE known.last_violation END
        FROM unnest(ids, heard, names, newest, broken, turns)
             AS news (device_id, last_heard, binding, report, violation, turn)
        WHERE news.turn = this_turn AND known.device_id = news.device_id
          AND (known.last_seen IS NULL AND news.last_heard IS NOT NULL OR news.last_heard > known.last_seen
               OR known.last_seen > noted
               OR fleetgate_replaces_report(news.report, known.state -> news.binding, noted_ms, known.device_id = ANY (doubted))
               OR fleetgate_replaces_violation(news.violation, known.last_violation, noted_ms, known.device_id = ANY (doubted)));
    END LOOP;
    RETURN ARRAY[outdated, untrusted];
END
$$;
COMMENT ON FUNCTION fleetgate_write_reports(bigint[], timestamptz[], timestamptz[], text[], text[], jsonb[], jsonb[], timestamptz) IS
    'Writes what is newest of each device: one element an event and binding. stamps: the latest timestamp of the event. seen: when the device was heard; NULL: this was not heard from it. nodes: the broker node. noted: now, unless a test says otherwise. Returns how many reports were not newer than what is known, and how many timestamps are untrusted. Locks device_state by device id.';

-- Merged reports -------------------------------------------------------------------------------

-- Reports that hold only what changed: a binding that merges applies each as a JSON merge patch
-- (RFC 7396), in the order of the data (time, message id), whatever the order in which they arrive.
--
-- Applying them as they arrive would not do: a late one would undo a newer one. So what is kept is not
-- the value but a tree of where it came from, and joining a report into it gives the same tree in any
-- order, any number of times, in any batches. An untrusted timestamp (V4) orders nothing: such a
-- report counts as sent when it was noted, in the order of arrival, and one that comes again counts as
-- a new one. A node of the tree, for one place in the document:
--   l  the stamp [time in ms, message id] of the newest report that set this place to something that is
--      no object, removed it (null), or replaced the whole document
--   v  what that report set it to; absent: removed
--   o  the stamp of the newest report that had an object here
--   m  the members of that object, by name, each a node
-- A place holds the object if o is not older than l, else v. Whatever below it is older than l is gone.
-- A removed member stays as a stamp, so that a late report cannot bring it back.

-- Each of the following calls itself once an object and not once a member: a call costs as much as twenty
-- members do. Members are taken out of their object once: "node -> 'm' -> key" would copy them all for each.

CREATE FUNCTION fleetgate_patch_node(patch jsonb, stamp jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    members jsonb;
BEGIN
    IF jsonb_typeof(patch) = 'object' THEN
        SELECT jsonb_object_agg(key, CASE jsonb_typeof(value)
            WHEN 'object' THEN fleetgate_patch_node(value, stamp)
            WHEN 'null' THEN jsonb_build_object('l', stamp)
            ELSE jsonb_build_object('l', stamp, 'v', value) END)
        INTO members FROM jsonb_each(patch);
        RETURN jsonb_build_object('o', stamp, 'm', coalesce(members, '{}'));
    ELSIF jsonb_typeof(patch) = 'null' THEN
        RETURN jsonb_build_object('l', stamp);
    END IF;
    RETURN jsonb_build_object('l', stamp, 'v', patch);
END
$$;
COMMENT ON FUNCTION fleetgate_patch_node(jsonb, jsonb) IS 'The tree of one merge patch.';

CREATE FUNCTION fleetgate_whole_node(document jsonb, stamp jsonb, levels integer) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    members jsonb;
BEGIN
    IF document IS NULL THEN
        RETURN jsonb_build_object('l', stamp);
    ELSIF jsonb_typeof(document) <> 'object' OR levels = 0 THEN
        RETURN jsonb_build_object('l', stamp, 'v', document);
    END IF;
    SELECT jsonb_object_agg(key, CASE jsonb_typeof(value)
        WHEN 'object' THEN fleetgate_whole_node(value, stamp, levels - 1)
        ELSE jsonb_build_object('l', stamp, 'v', value) END)
    INTO members FROM jsonb_each(document);
    RETURN jsonb_build_object('l', stamp, 'o', stamp, 'm', coalesce(members, '{}'));
END
$$;
COMMENT ON FUNCTION fleetgate_whole_node(jsonb, jsonb, integer) IS
    'The tree of a document that replaced everything; NULL: it was cleared. Objects deeper than so many levels are values as a whole: recursion must not exhaust the stack.';

CREATE FUNCTION fleetgate_prune_node(node jsonb, barrier jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    members jsonb;
BEGIN
    IF node IS NULL THEN
        RETURN NULL;
    END IF;
    IF node -> 'l' < barrier THEN
        node := node - '{l,v}'::text[];
    END IF;
    IF node -> 'o' < barrier THEN
        -- Its members are not newer than it.
        node := node - '{o,m}'::text[];
    ELSIF node ? 'm' THEN
        SELECT jsonb_object_agg(key, kept) INTO members
        FROM (SELECT key, CASE WHEN value ? 'o' THEN fleetgate_prune_node(value, barrier)
                               WHEN value -> 'l' < barrier THEN NULL ELSE value END AS kept
              FROM jsonb_each(node -> 'm')) AS member
        WHERE kept IS NOT NULL;
        node := jsonb_set(node, '{m}', coalesce(members, '{}'));
    END IF;
    RETURN nullif(node, '{}');
END
$$;
COMMENT ON FUNCTION fleetgate_prune_node(jsonb, jsonb) IS 'A tree without what is older than a stamp; NULL if nothing is left.';

CREATE FUNCTION fleetgate_join_nodes(known jsonb, news jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    news_win boolean := coalesce(news -> 'l' > known -> 'l', news ? 'l');
    leaf jsonb;
    object jsonb;
    joined jsonb;
    known_members jsonb;
    members jsonb;
BEGIN
    -- Of the tree whose l wins nothing is older than that.
    IF news_win THEN
        known := fleetgate_prune_node(known, news -> 'l');
    ELSIF known ? 'l' AND known -> 'l' IS DISTINCT FROM news -> 'l' THEN
        news := fleetgate_prune_node(news, known -> 'l');
    END IF;
    IF known IS NULL OR news IS NULL THEN
        RETURN coalesce(known, news);
    END IF;
    leaf := CASE WHEN news_win THEN news ELSE known END;
    object := greatest(known -> 'o', news -> 'o');
    known_members := coalesce(known -> 'm', '{}');
    joined := jsonb_strip_nulls(jsonb_build_object('l', leaf -> 'l', 'o', object));
    IF leaf ? 'v' AND coalesce(leaf -> 'l' > object, true) THEN
        joined := joined || jsonb_build_object('v', leaf -> 'v');
    END IF;
    IF object IS NOT NULL THEN
        SELECT jsonb_object_agg(key, CASE
            WHEN held IS NULL THEN value
            WHEN held ? 'o' OR value ? 'o' THEN fleetgate_join_nodes(held, value)
            WHEN value -> 'l' > held -> 'l' THEN value
            ELSE held END)
        INTO members
        FROM (SELECT key, value, known_members -> key AS held FROM jsonb_each(coalesce(news -> 'm', '{}')) OFFSET 0) AS member;
        joined := joined || jsonb_build_object('m', known_members || coalesce(members, '{}'));
    END IF;
    RETURN joined;
END
$$;
COMMENT ON FUNCTION fleetgate_join_nodes(jsonb, jsonb) IS
    'Two trees as one: the same in any order, and a tree joined with itself is itself.';

CREATE FUNCTION fleetgate_node_value(node jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    members jsonb;
BEGIN
    IF coalesce(node -> 'o' >= node -> 'l', node ? 'o') THEN
        SELECT jsonb_object_agg(key, held) INTO members
        FROM (SELECT key, CASE WHEN value ? 'o' THEN fleetgate_node_value(value) ELSE value -> 'v' END AS held
              FROM jsonb_each(node -> 'm')) AS member
        WHERE held IS NOT NULL;
        RETURN coalesce(members, '{}');
    END IF;
    RETURN node -> 'v';
END
$$;
COMMENT ON FUNCTION fleetgate_node_value(jsonb) IS 'The value of a tree; NULL: removed.';

CREATE FUNCTION fleetgate_forget_removed(node jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    members jsonb;
BEGIN
    IF coalesce(node -> 'o' >= node -> 'l', node ? 'o') THEN
        SELECT jsonb_object_agg(key, kept) INTO members
        FROM (SELECT key, CASE WHEN value ? 'o' THEN fleetgate_forget_removed(value) WHEN value ? 'v' THEN value END AS kept
              FROM jsonb_each(node -> 'm')) AS member
        WHERE kept IS NOT NULL;
        RETURN jsonb_build_object('o', node -> 'o', 'm', coalesce(members, '{}'));
    ELSIF node ? 'v' THEN
        RETURN node;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION fleetgate_forget_removed(jsonb) IS
    'A tree of the same value without the stamps of what was removed or replaced; no older report may be joined into it any more.';

CREATE FUNCTION fleetgate_report_nodes(
    device bigint, name text, device_ids bigint[], bindings text[], patches jsonb[], stamps bigint[], ids text[], noted_ms bigint
) RETURNS TABLE (node jsonb, place jsonb, told bigint)
    LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT CASE jsonb_typeof(patch)
               WHEN 'object' THEN fleetgate_patch_node(patch, stamp)
               ELSE fleetgate_whole_node(patch, stamp, 0) END,
           stamp, at
    FROM (SELECT sent.patch, sent.at, jsonb_build_array(
              CASE WHEN sent.at > noted_ms + (extract(epoch FROM fleetgate_clock_tolerance()) * 1000)::bigint
                   THEN noted_ms ELSE sent.at END, sent.id) AS stamp
          FROM unnest(device_ids, bindings, patches, stamps, ids) AS sent (device_id, binding, patch, at, id)
          WHERE sent.device_id = device AND sent.binding = name
          ORDER BY sent.at, sent.id COLLATE "C" OFFSET 0) AS report
$$;
COMMENT ON FUNCTION fleetgate_report_nodes(bigint, text, bigint[], text[], jsonb[], bigint[], text[], bigint) IS
    'Of those reports that are for one binding of one device the tree, its stamp, and what the broker told. One with an untrusted timestamp gets when it was noted (ms since 1970) for a stamp.';

CREATE FUNCTION fleetgate_merge_reports(
    locked bigint[], device_ids bigint[], bindings text[], patches jsonb[], stamps bigint[], ids text[],
    most_bytes integer, noted timestamptz DEFAULT NULL
) RETURNS bigint
    LANGUAGE plpgsql SET search_path FROM CURRENT
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off
AS $$
DECLARE
    here record;
    report record;
    entry jsonb;
    kept jsonb;
    known jsonb;
    tree jsonb;
    joined jsonb;
    together jsonb;
    merged jsonb;
    changed boolean;
    stamp jsonb;
    floor jsonb;
    newest jsonb;
    violation jsonb;
    noted_ms bigint;
    clock_is_wrong boolean;
    outdated bigint := 0;
BEGIN
    IF cardinality(device_ids) = 0 THEN
        RETURN 0;
    END IF;
    noted := coalesce(noted, clock_timestamp());
    noted_ms := floor(extract(epoch FROM noted) * 1000);
    -- All rows of the batch, those without a merge too: what is locked later must not come before.
    INSERT INTO device_state (device_id)
    SELECT id FROM devices WHERE id = ANY (locked)
        AND NOT EXISTS (SELECT FROM device_state WHERE device_id = devices.id) ORDER BY id
    ON CONFLICT DO NOTHING;
    PERFORM FROM device_state WHERE device_id = ANY (locked) ORDER BY device_id FOR NO KEY UPDATE;
    FOR here IN SELECT DISTINCT place.device_id, place.binding FROM unnest(device_ids, bindings) AS place (device_id, binding)
    LOOP
        SELECT state -> here.binding, merges -> here.binding INTO entry, kept
        FROM device_state WHERE device_id = here.device_id;
        -- A device that is gone by now has no state.
        CONTINUE WHEN NOT FOUND;
        -- Where an untrusted value stands: when it was noted, so that whatever comes after may change it.
        stamp := jsonb_build_array(
            CASE WHEN fleetgate_is_trusted_entry(entry, noted_ms) THEN coalesce(entry -> 'stamp', entry -> 'at')
                 ELSE least(entry -> 'at', to_jsonb(noted_ms)) END, entry -> 'id');
        IF kept -> 'newest' = stamp THEN
            known := kept -> 'tree';
        ELSE
            known := CASE WHEN entry IS NOT NULL THEN fleetgate_whole_node(entry -> 'value', stamp, 16) END;
        END IF;
        floor := kept -> 'floor';
        newest := CASE WHEN entry IS NOT NULL THEN stamp END;
        tree := known;
        violation := NULL;
        -- All at once, which costs one look at the known tree; one after the other only if they do not
        -- fit together.
        together := NULL;
        FOR report IN
            SELECT node, place
            FROM fleetgate_report_nodes(here.device_id, here.binding, device_ids, bindings, patches, stamps, ids, noted_ms)
            WHERE coalesce(place > floor, true)
        LOOP
            together := fleetgate_join_nodes(together, report.node);
            newest := greatest(newest, report.place);
        END LOOP;
        joined := fleetgate_join_nodes(tree, together);
        IF pg_column_size(joined) <= most_bytes THEN
            tree := joined;
        ELSE
            newest := CASE WHEN entry IS NOT NULL THEN stamp END;
            FOR report IN
                SELECT node, place, told
                FROM fleetgate_report_nodes(here.device_id, here.binding, device_ids, bindings, patches, stamps, ids, noted_ms)
            LOOP
                joined := fleetgate_join_nodes(tree, report.node);
                CONTINUE WHEN report.place <= floor OR joined = tree;
                IF pg_column_size(joined) > most_bytes THEN
                    joined := coalesce(fleetgate_forget_removed(joined), jsonb_build_object('l', report.place));
                    IF pg_column_size(joined) > most_bytes THEN
                        violation := jsonb_build_object('at', report.told, 'binding', here.binding, 'pointer', '',
                            'message', format('is not merged: the merged value would be larger than %s bytes with its stamps', most_bytes));
                        CONTINUE;
                    END IF;
                    floor := greatest(floor, newest, report.place);
                END IF;
                tree := joined;
                newest := greatest(newest, report.place);
            END LOOP;
        END IF;
        changed := tree IS DISTINCT FROM known;
        IF NOT changed AND violation IS NULL THEN
            outdated := outdated + 1;
            CONTINUE;
        END IF;
        IF changed THEN
            merged := fleetgate_node_value(tree);
            entry := fleetgate_noted(jsonb_build_object('at', newest -> 0, 'id', newest -> 1), noted_ms)
                || CASE WHEN merged IS NULL THEN '{}' ELSE jsonb_build_object('value', merged) END;
            kept := jsonb_build_object('tree', tree, 'newest', newest)
                || CASE WHEN floor IS NULL THEN '{}' ELSE jsonb_build_object('floor', floor) END;
        END IF;
        violation := fleetgate_noted(violation, noted_ms);
        clock_is_wrong := violation IS NOT NULL AND EXISTS (
            SELECT FROM untrusted_timestamps
            WHERE device_id = here.device_id AND since < noted - fleetgate_clock_tolerance());
        UPDATE device_state SET
            state = CASE WHEN changed THEN state || jsonb_build_object(here.binding, entry) ELSE state END,
            merges = CASE WHEN changed THEN merges || jsonb_build_object(here.binding, kept) ELSE merges END,
            last_violation = CASE WHEN fleetgate_replaces_violation(violation, last_violation, noted_ms, clock_is_wrong)
                THEN violation ELSE last_violation END
        WHERE device_id = here.device_id;
    END LOOP;
    RETURN outdated;
END
$$;
COMMENT ON FUNCTION fleetgate_merge_reports(bigint[], bigint[], text[], jsonb[], bigint[], text[], integer, timestamptz) IS
    'Merges reports into the values of bindings that merge. locked: every device of the batch. patches: NULL clears the value. stamps: ms since 1970. most_bytes: of the tree of one binding. noted: now, unless a test says otherwise. Returns of how many bindings the reports brought nothing new. Locks device_state by device id.';
