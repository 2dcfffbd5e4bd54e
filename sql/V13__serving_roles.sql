-- Who serves. The tables belong to one role, the owner, which migrates; `fleetgate serve` and the commands
-- connect as another one, which may read and write rows and nothing more. `fleetgate migrate` grants it that,
-- and grants it again after each later migration: so it must know for whom.

CREATE TABLE serving_roles (
    name text COLLATE "C" PRIMARY KEY,
    granted_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE serving_roles IS
    'The roles named by `fleetgate migrate --grant-to`. Every migration grants them what serving needs on the tables of then. No serving role may read or change this table.';
COMMENT ON COLUMN serving_roles.name IS 'A role of this server. One that is gone is passed over.';
COMMENT ON COLUMN serving_roles.granted_at IS 'When it was named first.';
