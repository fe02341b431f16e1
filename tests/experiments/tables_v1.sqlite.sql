CREATE TABLE modeltiers_schema (
  version INTEGER NOT NULL,
  tool TEXT NOT NULL,
  applied DOUBLE NOT NULL,
  PRIMARY KEY (version)
);
CREATE TABLE sweeps (
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL,
  space TEXT NOT NULL,
  status TEXT NOT NULL,
  created DOUBLE NOT NULL,
  finished DOUBLE
);
CREATE TABLE runs (
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL,
  status TEXT NOT NULL,
  task TEXT NOT NULL,
  created DOUBLE NOT NULL,
  finished DOUBLE,
  heartbeat DOUBLE NOT NULL,
  git_commit TEXT,
  git_dirty BOOLEAN,
  host TEXT NOT NULL,
  pid INTEGER NOT NULL,
  notes TEXT NOT NULL,
  tags TEXT NOT NULL,
  sweep_id INTEGER,
  sweep_params TEXT,
  facts TEXT NOT NULL,
  FOREIGN KEY(sweep_id) REFERENCES sweeps (id)
);
CREATE INDEX ix_runs_name ON runs (name);
CREATE INDEX ix_runs_sweep_id ON runs (sweep_id);
CREATE TABLE artifacts (
  id INTEGER NOT NULL,
  run_id INTEGER NOT NULL,
  kind TEXT NOT NULL,
  path TEXT NOT NULL,
  sha256 TEXT NOT NULL,
  bytes BIGINT NOT NULL,
  created DOUBLE NOT NULL,
  PRIMARY KEY (id),
  FOREIGN KEY(run_id) REFERENCES runs (id)
);
CREATE INDEX ix_artifacts_run_id ON artifacts (run_id);
CREATE TABLE comparisons (
  id INTEGER NOT NULL,
  baseline_id INTEGER NOT NULL,
  candidate_id INTEGER NOT NULL,
  metric TEXT NOT NULL,
  result TEXT NOT NULL,
  created DOUBLE NOT NULL,
  PRIMARY KEY (id),
  FOREIGN KEY(baseline_id) REFERENCES runs (id),
  FOREIGN KEY(candidate_id) REFERENCES runs (id)
);
CREATE INDEX ix_comparisons_baseline_id ON comparisons (baseline_id);
CREATE INDEX ix_comparisons_candidate_id ON comparisons (candidate_id);
CREATE TABLE configs (
  run_id INTEGER NOT NULL,
  kind TEXT NOT NULL,
  content TEXT NOT NULL,
  PRIMARY KEY (run_id, kind),
  FOREIGN KEY(run_id) REFERENCES runs (id)
);
CREATE TABLE metrics (
  id INTEGER NOT NULL,
  run_id INTEGER NOT NULL,
  name TEXT NOT NULL,
  step BIGINT,
  epoch DOUBLE,
  value DOUBLE,
  time DOUBLE NOT NULL,
  PRIMARY KEY (id),
  FOREIGN KEY(run_id) REFERENCES runs (id)
);
CREATE INDEX ix_metrics_last ON metrics (run_id, name, id);
CREATE TABLE names (
  name TEXT NOT NULL,
  run_id INTEGER NOT NULL,
  changed DOUBLE NOT NULL,
  PRIMARY KEY (name),
  FOREIGN KEY(run_id) REFERENCES runs (id)
);
CREATE TABLE profiles (
  id INTEGER NOT NULL,
  run_id INTEGER NOT NULL,
  name TEXT NOT NULL,
  kind TEXT NOT NULL,
  document TEXT,
  blob BLOB,
  created DOUBLE NOT NULL,
  PRIMARY KEY (id),
  FOREIGN KEY(run_id) REFERENCES runs (id)
);
CREATE INDEX ix_profiles_run_id ON profiles (run_id);
CREATE TABLE scores (
  run_id INTEGER NOT NULL,
  metric TEXT NOT NULL,
  dataset TEXT NOT NULL,
  dtype TEXT NOT NULL,
  count INTEGER NOT NULL,
  content BLOB NOT NULL,
  PRIMARY KEY (run_id, metric),
  FOREIGN KEY(run_id) REFERENCES runs (id)
);
