use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn listening() -> Freshness {
    let freshness = Freshness::new(MINUTE);
    freshness.listening();
    freshness
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

#[test]
fn a_change_ends_trust_in_what_was_loaded_before_it() {
    let freshness = listening();
    let before = freshness.stamp("a");
    assert!(freshness.trusts(before));
    freshness.changed("a");
    assert!(!freshness.trusts(before));
    assert!(!freshness.may_serve_stale(before));
    assert!(freshness.trusts(freshness.stamp("a")));
}

#[test]
fn what_was_loaded_while_nobody_listened_is_never_trusted() {
    let freshness = Freshness::new(MINUTE);
    let deaf = freshness.stamp("a");
    assert!(!freshness.trusts(deaf));
    freshness.listening();
    assert!(!freshness.trusts(deaf));
    let heard = freshness.stamp("a");
    freshness.lost();
    assert!(!freshness.trusts(heard));
    freshness.listening();
    assert!(!freshness.trusts(heard), "a change may have been missed meanwhile");
}

#[test]
fn trust_ends_when_no_proof_comes() {
    let freshness = listening();
    let stamp = freshness.stamp("a");
    let now = now_ms();
    assert!(freshness.trusts_at(now + ms(TRUST) - 100, stamp));
    assert!(!freshness.trusts_at(now + ms(TRUST) + 1, stamp));
    freshness.confirm(now + 1000);
    assert!(freshness.trusts_at(now + ms(TRUST) + 1, stamp));
}

#[test]
fn a_record_stands_in_within_the_bound_of_the_listen_that_it_was_loaded_under() {
    let freshness = listening();
    let stamp = freshness.stamp("a");
    let now = now_ms();
    freshness.confirm(now + 5_000);
    freshness.away();
    assert!(freshness.is_away());
    assert!(freshness.may_serve_stale_at(now + 5_000 + ms(MINUTE), stamp));
    assert!(!freshness.may_serve_stale_at(now + 5_001 + ms(MINUTE), stamp));
    // LISTEN comes back, loads fail: the record was not confirmed by that.
    for later in [10_000, 20_000, 30_000] {
        freshness.listening_since(now + later);
        freshness.confirm(now + later + 5_000);
        assert!(freshness.may_serve_stale_at(now + 5_000 + ms(MINUTE), stamp));
        assert!(!freshness.may_serve_stale_at(now + 5_001 + ms(MINUTE), stamp));
        freshness.lost();
    }
    freshness.everything_changed();
    assert!(!freshness.may_serve_stale_at(now, stamp));
}

#[test]
fn a_record_loaded_while_nobody_listened_is_bounded_from_its_load() {
    let freshness = Freshness::new(MINUTE);
    let deaf = freshness.stamp("a");
    let now = now_ms();
    freshness.listening_since(now + 30_000);
    assert!(freshness.may_serve_stale_at(now + ms(MINUTE) - 100, deaf));
    assert!(!freshness.may_serve_stale_at(now + ms(MINUTE) + 100, deaf));
    freshness.deaf();
    assert!(!freshness.may_serve_stale_at(now, deaf), "PostgreSQL answers, so it is asked");
    let strict = Freshness::new(Duration::ZERO);
    let stamp = strict.stamp("a");
    assert!(!strict.may_serve_stale_at(now_ms() + 1, stamp));
}

#[test]
fn what_was_loaded_under_a_listen_long_forgotten_is_bounded_from_its_load() {
    let freshness = listening();
    let stamp = freshness.stamp("a");
    let now = now_ms();
    freshness.confirm(now + 1_000);
    for later in 0..=EPOCHS as u64 {
        freshness.lost();
        freshness.listening_since(now + 1_000 + later);
    }
    assert_eq!(freshness.proofs().len(), EPOCHS);
    assert!(freshness.may_serve_stale_at(now + ms(MINUTE) - 100, stamp));
    assert!(!freshness.may_serve_stale_at(now + ms(MINUTE) + 100, stamp));
}

#[test]
fn memory_decides_something_only_where_something_was_loaded_under_this_listen() {
    let freshness = listening();
    assert!(!freshness.has_trusted_records());
    freshness.loaded(freshness.stamp("a"));
    assert!(freshness.has_trusted_records() && !freshness.loads_fail());
    freshness.loading(false);
    assert!(freshness.has_trusted_records() && freshness.loads_fail());
    freshness.lost();
    freshness.listening();
    assert!(!freshness.has_trusted_records());
}

#[test]
fn a_decision_that_took_long_looks_again_unless_changes_are_heard() {
    let freshness = listening();
    let stamp = freshness.stamp("a");
    let now = now_ms();
    assert!(freshness.still_holds_at(now + 3_000, stamp));
    assert!(!freshness.still_holds_at(now + ms(TRUST) + 100, stamp), "LISTEN is not proven");
    freshness.lost();
    assert!(freshness.still_holds_at(now + 900, stamp));
    assert!(!freshness.still_holds_at(now + 1_100, stamp));
    freshness.listening_since(now + 1_000);
    assert!(!freshness.still_holds_at(now + 1_100, stamp), "a change may have been missed");
    assert!(freshness.still_holds_at(now + 2_100, freshness.stamp("a")));
    freshness.changed("a");
    assert!(!freshness.still_holds_at(now, stamp));
}
