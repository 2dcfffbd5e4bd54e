-- Reports that hold only what changed: a binding that merges applies each as a JSON merge patch
-- (RFC 7396), in the order of the data (time, message id), whatever the order in which they arrive.
--
-- Applying them as they arrive would not do: a late one would undo a newer one. So what is kept is not
-- the value but a tree of where it came from, and joining a report into it gives the same tree in any
-- order, any number of times, in any batches. An untrusted timestamp (V10) orders nothing: such a
-- report counts as sent when it was noted, in the order of arrival, and one that comes again counts as
-- a new one. A node of the tree, for one place in the document:
--   l  the stamp [time in ms, message id] of the newest report that set this place to something that is
--      no object, removed it (null), or replaced the whole document
--   v  what that report set it to; absent: removed
--   o  the stamp of the newest report that had an object here
--   m  the members of that object, by name, each a node
-- A place holds the object if o is not older than l, else v. Whatever below it is older than l is gone.
-- A removed member stays as a stamp, so that a late report cannot bring it back.

ALTER TABLE topic_bindings ADD COLUMN merge boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN topic_bindings.merge IS
    'What a report on the state topic does to the last known value: false replaces it, true is a JSON merge patch (RFC 7396) to it.';

DROP TRIGGER topic_bindings_touch ON topic_bindings;
CREATE TRIGGER topic_bindings_touch
    BEFORE UPDATE ON topic_bindings FOR EACH ROW
    WHEN ((OLD.device_id, OLD.name, OLD.state_topic, OLD.command_topic, OLD.merge)
        IS DISTINCT FROM (NEW.device_id, NEW.name, NEW.state_topic, NEW.command_topic, NEW.merge))
    EXECUTE FUNCTION fleetgate_touch();

ALTER TABLE device_state
    ADD COLUMN merges jsonb NOT NULL DEFAULT '{}',
    ADD CONSTRAINT device_state_merges_form CHECK (jsonb_typeof(merges) = 'object');
COMMENT ON COLUMN device_state.merges IS
    'What merged values came from, by binding name: {"tree", "newest", "floor"}. tree: see sql/V11. newest: the stamp of its newest report; if state has another one, that value replaced the merged one and the tree begins anew with it. floor: reports up to this stamp come too late, because which members they must not bring back was forgotten.';

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
