-- Kick-outs that were carried out are kept for a while also where one replica runs: a login that was answered just before the right was
-- taken away may open its session after the kick-out (src/kickouts.rs).

ALTER TABLE kick_outs_to_confirm ADD COLUMN carried_out_at timestamptz NOT NULL DEFAULT clock_timestamp();
CREATE INDEX kick_outs_to_confirm_carried_out ON kick_outs_to_confirm (carried_out_at);

COMMENT ON TABLE kick_outs_to_confirm IS
    'Kick-outs that were carried out: for ten seconds, in which each replica looks whom it let in just before the change, and until each has heard of the change.';
COMMENT ON COLUMN kick_outs_to_confirm.carried_out_at IS 'When EMQX had done it; of several times, the last.';
