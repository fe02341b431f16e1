CREATE TABLE modeltiers_schema (
  version INTEGER NOT NULL,
  tool TEXT NOT NULL,
  applied DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (version)
);
CREATE TABLE sweeps (
  id BIGSERIAL NOT NULL,
  name TEXT NOT NULL,
  space TEXT NOT NULL,
  status TEXT NOT NULL,
  created DOUBLE PRECISION NOT NULL,
  finished DOUBLE PRECISION,
  PRIMARY KEY (id)
);
CREATE TABLE runs (
  id BIGSERIAL NOT NULL,
  name TEXT NOT NULL,
  status TEXT NOT NULL,
  task TEXT NOT NULL,
  created DOUBLE PRECISION NOT NULL,
  finished DOUBLE PRECISION,
  heartbeat DOUBLE PRECISION NOT NULL,
  git_commit TEXT,
  git_dirty BOOLEAN,
  host TEXT NOT NULL,
  pid INTEGER NOT NULL,
  notes TEXT NOT NULL,
  tags TEXT NOT NULL,
  sweep_id BIGINT,
  sweep_params TEXT,
  facts TEXT NOT NULL,
  PRIMARY KEY (id),
  FOREIGN KEY(sweep_id) REFERENCES sweeps (id)
);
CREATE INDEX ix_runs_name ON runs (name);
CREATE INDEX ix_runs_sweep_id ON runs (sweep_id);
CREATE TABLE artifacts (
  id BIGSERIAL NOT NULL,
  run_id BIGINT NOT NULL,
  kind TEXT NOT NULL,
  path TEXT NOT NULL,
  sha256 TEXT NOT NULL,
  bytes BIGINT NOT NULL,
  created DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (id),
  FOREIGN KEY(run_id) REFERENCES runs (id)
);
CREATE INDEX ix_artifacts_run_id ON artifacts (run_id);
CREATE TABLE comparisons (
  id BIGSERIAL NOT NULL,
  baseline_id BIGINT NOT NULL,
  candidate_id BIGINT NOT NULL,
  metric TEXT NOT NULL,
  result TEXT NOT NULL,
  created DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (id),
  FOREIGN KEY(baseline_id) REFERENCES runs (id),
  FOREIGN KEY(candidate_id) REFERENCES runs (id)
);
CREATE INDEX ix_comparisons_baseline_id ON comparisons (baseline_id);
CREATE INDEX ix_comparisons_candidate_id ON comparisons (candidate_id);
CREATE TABLE configs (
  run_id BIGINT NOT NULL,
  kind TEXT NOT NULL,
  content TEXT NOT NULL,
  PRIMARY KEY (run_id, kind),
  FOREIGN KEY(run_id) REFERENCES runs (id)
);
CREATE TABLE metrics (
  id BIGSERIAL NOT NULL,
  run_id BIGINT NOT NULL,
  name TEXT NOT NULL,
  step BIGINT,
  epoch DOUBLE PRECISION,
  value DOUBLE PRECISION,
  time DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (id),
  FOREIGN KEY(run_id) REFERENCES runs (id)
);
CREATE INDEX ix_metrics_last ON metrics (run_id, name, id);
CREATE TABLE names (
  name TEXT NOT NULL,
  run_id BIGINT NOT NULL,
  changed DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (name),
  FOREIGN KEY(run_id) REFERENCES runs (id)
);
CREATE TABLE profiles (
  id BIGSERIAL NOT NULL,
  run_id BIGINT NOT NULL,
  name TEXT NOT NULL,
  kind TEXT NOT NULL,
  document TEXT,
  blob BYTEA,
  created DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (id),
  FOREIGN KEY(run_id) REFERENCES runs (id)
);
CREATE INDEX ix_profiles_run_id ON profiles (run_id);
CREATE TABLE scores (
  run_id BIGINT NOT NULL,
  metric TEXT NOT NULL,
  dataset TEXT NOT NULL,
  dtype TEXT NOT NULL,
  count INTEGER NOT NULL,
  content BYTEA NOT NULL,
  PRIMARY KEY (run_id, metric),
  FOREIGN KEY(run_id) REFERENCES runs (id)
);
