-- Reports that hold only what changed: a binding that merges applies each as a JSON merge patch
-- (RFC 7396), in the order of the data (time, message id), whatever the order in which they arrive.
--
-- Applying them as they arrive would not do: a late one would undo a newer one. So what is kept is not
-- the value but a tree of where it came from, and joining a report into it gives the same tree in any
-- order, any number of times, in any batches. A node of the tree, for one place in the document:
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

CREATE FUNCTION fleetgate_patch_node(patch jsonb, stamp jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    members jsonb;
BEGIN
    IF jsonb_typeof(patch) = 'object' THEN
        SELECT jsonb_object_agg(key, fleetgate_patch_node(value, stamp)) INTO members FROM jsonb_each(patch);
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
    SELECT jsonb_object_agg(key, fleetgate_whole_node(value, stamp, levels - 1)) INTO members FROM jsonb_each(document);
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
    IF node -> 'l' < barrier THEN
        node := node - '{l,v}'::text[];
    END IF;
    IF node -> 'o' < barrier THEN
        -- Its members are not newer than it.
        node := node - '{o,m}'::text[];
    ELSIF node ? 'm' THEN
        SELECT jsonb_object_agg(key, kept) INTO members
        FROM (SELECT key, fleetgate_prune_node(value, barrier) AS kept FROM jsonb_each(node -> 'm')) AS member
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
    leaf jsonb := CASE WHEN coalesce(news -> 'l' > known -> 'l', news ? 'l') THEN news ELSE known END;
    object jsonb := greatest(known -> 'o', news -> 'o');
    joined jsonb;
    members jsonb;
BEGIN
    IF known IS NULL OR news IS NULL THEN
        RETURN coalesce(known, news);
    END IF;
    joined := jsonb_strip_nulls(jsonb_build_object('l', leaf -> 'l', 'o', object));
    IF leaf ? 'v' AND coalesce(leaf -> 'l' > object, true) THEN
        joined := joined || jsonb_build_object('v', leaf -> 'v');
    END IF;
    IF object IS NOT NULL THEN
        SELECT coalesce(known -> 'm', '{}') || coalesce(jsonb_object_agg(key, fleetgate_join_nodes(known -> 'm' -> key, value)), '{}')
        INTO members FROM jsonb_each(coalesce(news -> 'm', '{}'));
        joined := joined || jsonb_build_object('m', members);
    END IF;
    IF leaf ? 'l' THEN
        RETURN fleetgate_prune_node(joined, leaf -> 'l');
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
        FROM (SELECT key, fleetgate_node_value(value) AS held FROM jsonb_each(node -> 'm')) AS member
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
        FROM (SELECT key, fleetgate_forget_removed(value) AS kept FROM jsonb_each(node -> 'm')) AS member
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
    stamp jsonb;
    floor jsonb;
    newest jsonb;
    violation jsonb;
    noted_ms bigint := floor(extract(epoch FROM coalesce(noted, clock_timestamp())) * 1000);
    outdated bigint := 0;
BEGIN
    IF cardinality(device_ids) = 0 THEN
        RETURN 0;
    END IF;
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
        stamp := jsonb_build_array(entry -> 'at', entry -> 'id');
        IF kept -> 'newest' = stamp THEN
            known := kept -> 'tree';
        ELSE
            known := CASE WHEN entry IS NOT NULL THEN fleetgate_whole_node(entry -> 'value', stamp, 16) END;
        END IF;
        floor := kept -> 'floor';
        newest := CASE WHEN entry IS NOT NULL THEN stamp END;
        tree := known;
        violation := NULL;
        FOR report IN
            SELECT sent.patch, sent.at, sent.id FROM unnest(device_ids, bindings, patches, stamps, ids)
                AS sent (device_id, binding, patch, at, id)
            WHERE sent.device_id = here.device_id AND sent.binding = here.binding
            ORDER BY sent.at, sent.id COLLATE "C"
        LOOP
            -- What comes from a clock that is ahead is in order of its arrival: it must not hold up
            -- what comes later.
            stamp := jsonb_build_array(
                CASE WHEN report.at > noted_ms + 300000 THEN noted_ms ELSE report.at END, report.id);
            joined := fleetgate_join_nodes(tree, CASE jsonb_typeof(report.patch)
                WHEN 'object' THEN fleetgate_patch_node(report.patch, stamp)
                ELSE fleetgate_whole_node(report.patch, stamp, 0) END);
            IF stamp <= floor OR joined = tree THEN
                outdated := outdated + 1;
                CONTINUE;
            END IF;
            IF pg_column_size(joined) > most_bytes THEN
                joined := coalesce(fleetgate_forget_removed(joined), jsonb_build_object('l', stamp));
                IF pg_column_size(joined) > most_bytes THEN
                    violation := jsonb_build_object('at', least(report.at, noted_ms), 'binding', here.binding, 'pointer', '',
                        'message', format('is not merged: the merged value would be larger than %s bytes with its stamps', most_bytes));
                    CONTINUE;
                END IF;
                floor := greatest(floor, newest, stamp);
            END IF;
            tree := joined;
            newest := greatest(newest, stamp);
        END LOOP;
        IF tree IS DISTINCT FROM known THEN
            entry := jsonb_build_object('at', newest -> 0, 'id', newest -> 1);
            IF fleetgate_node_value(tree) IS NOT NULL THEN
                entry := entry || jsonb_build_object('value', fleetgate_node_value(tree));
            END IF;
            kept := jsonb_build_object('tree', tree, 'newest', newest)
                || CASE WHEN floor IS NULL THEN '{}' ELSE jsonb_build_object('floor', floor) END;
        END IF;
        IF tree IS DISTINCT FROM known OR violation IS NOT NULL THEN
            UPDATE device_state SET
                state = CASE WHEN tree IS DISTINCT FROM known
                    THEN state || jsonb_build_object(here.binding, entry) ELSE state END,
                merges = CASE WHEN tree IS DISTINCT FROM known
                    THEN merges || jsonb_build_object(here.binding, kept) ELSE merges END,
                last_violation = CASE WHEN fleetgate_is_newer_violation(violation, last_violation)
                    THEN violation ELSE last_violation END
            WHERE device_id = here.device_id;
        END IF;
    END LOOP;
    RETURN outdated;
END
$$;
COMMENT ON FUNCTION fleetgate_merge_reports(bigint[], bigint[], text[], jsonb[], bigint[], text[], integer, timestamptz) IS
    'Merges reports into the values of bindings that merge. locked: every device of the batch. patches: NULL clears the value. stamps: ms since 1970. most_bytes: of the tree of one binding. noted: now, unless a test says otherwise. Returns how many reports brought nothing new. Locks device_state by device id.';
