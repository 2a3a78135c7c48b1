BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE attempt (
	digest TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	worker TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	started_at DATETIME NOT NULL, 
	heartbeat_at DATETIME NOT NULL, 
	lease_until DATETIME NOT NULL, 
	ended_at DATETIME, 
	exit_reason TEXT, 
	PRIMARY KEY (digest, number), 
	FOREIGN KEY(digest) REFERENCES trial (digest)
);
INSERT INTO "attempt" VALUES('a814eb04677b9d37',1,'train','here@vm:18568','done','2026-11-26 17:18:29.198','2026-11-26 17:18:30.656','2026-11-26 17:18:49.198','2026-11-26 17:18:30.656',NULL);
INSERT INTO "attempt" VALUES('a814eb04677b9d37',2,'eval','here@vm:18568','done','2026-11-26 17:18:30.695','2026-11-26 17:18:30.922','2026-11-26 17:18:50.695','2026-11-26 17:18:30.922',NULL);
CREATE TABLE curve (
	digest TEXT NOT NULL, 
	step INTEGER NOT NULL, 
	tokens BIGINT NOT NULL, 
	seconds DOUBLE NOT NULL, 
	val_loss DOUBLE NOT NULL, 
	max_vio DOUBLE NOT NULL, 
	PRIMARY KEY (digest, step), 
	FOREIGN KEY(digest) REFERENCES trial (digest)
);
CREATE TABLE presence (
	name TEXT NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	started_at DATETIME NOT NULL, 
	seen_at DATETIME NOT NULL, 
	facts TEXT NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE sweep (
	sweep_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	spec TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	is_expanded BOOLEAN NOT NULL, 
	max_retries INTEGER NOT NULL, 
	parent_run_id TEXT, 
	created_at DATETIME NOT NULL, 
	finished_at DATETIME, priority INTEGER DEFAULT '0' NOT NULL, max_preemptions INTEGER DEFAULT '20' NOT NULL, note TEXT, resumed_at DATETIME, 
	PRIMARY KEY (sweep_id)
);
INSERT INTO "sweep" VALUES('train-t-3d1d66','train-t','{"name": "train-t", "base": {"model": {"vocab_size": 32, "num_layers": 2, "d_model": 16, "num_heads": 2, "num_dense_layers": 1, "d_dense": 32, "num_experts": 8, "top_k": 2, "num_shared": 1, "d_expert": 8, "gate": "sigmoid", "renormalise": true, "route_scale": 1.0, "rope_theta": 10000.0, "norm_eps": 1e-06, "init_std": 0.075, "tie_embeddings": false}, "data": {"kind": "synthetic", "num_domains": 2, "vocab_size": 32, "num_tokens": 20000, "seed": 0, "validation_share": 0.05}, "balancer": {"kind": "sign", "target": null, "step_size": 0.01, "centred": true, "schedule": "constant", "warm_until": 0.0, "freeze_from": 1.0}, "train": {"steps": 12, "batch_sequences": 4, "seq_len": 32, "micro_batch_sequences": null, "learning_rate": 0.003, "min_lr_share": 0.1, "warmup_steps": 0, "schedule": "cosine", "decay_share": 0.2, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "grad_clip": 1.0, "precision": "float32", "recompute": false, "compile": false, "seed": 0}, "eval": {"tokens": 512, "batch_sequences": 16, "groups": 8, "group_tokens": 4096, "by_k": "powers", "by_k_tokens": 4096, "routes": true, "every_steps": null, "curve_tokens": 8192}, "runtime": {"backend": "auto", "device": "cpu", "threads": 1, "workers": 1, "log_every": 4, "checkpoint_every": 8}, "extends": null}, "axes": {"train.seed": [0]}, "search": {"kind": "grid"}, "stopping": {"kind": "none"}, "objective": {"loss_tolerance": 0.01, "constraints": {}, "target_loss": null}, "confirm": null, "max_retries": 2, "max_preemptions": 20, "priority": 0, "stacking": "auto"}','finished',1,2,'8c0d229542d84594b9dd6989727c8ff2','2026-11-26 17:18:27.392','2026-11-26 17:18:30.953',0,20,NULL,NULL);
CREATE TABLE sweep_trial (
	sweep_id TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	position INTEGER NOT NULL, stage VARCHAR(16) DEFAULT 'tune' NOT NULL, 
	PRIMARY KEY (sweep_id, digest), 
	FOREIGN KEY(sweep_id) REFERENCES sweep (sweep_id), 
	FOREIGN KEY(digest) REFERENCES trial (digest)
);
INSERT INTO "sweep_trial" VALUES('train-t-3d1d66','a814eb04677b9d37',0,'tune');
CREATE TABLE trial (
	digest TEXT NOT NULL, 
	label TEXT NOT NULL, 
	spec TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	attempt INTEGER NOT NULL, 
	failures INTEGER NOT NULL, 
	progress TEXT, 
	result TEXT NOT NULL, 
	error TEXT, 
	run_id TEXT, 
	checkpoint_uri TEXT, 
	created_at DATETIME NOT NULL, 
	started_at DATETIME, 
	finished_at DATETIME, preemptions INTEGER DEFAULT '0' NOT NULL, ordered VARCHAR(16), stop_reason TEXT, extends TEXT, 
	PRIMARY KEY (digest)
);
INSERT INTO "trial" VALUES('a814eb04677b9d37','sign 0.01','{"model": {"vocab_size": 32, "num_layers": 2, "d_model": 16, "num_heads": 2, "num_dense_layers": 1, "d_dense": 32, "num_experts": 8, "top_k": 2, "num_shared": 1, "d_expert": 8, "gate": "sigmoid", "renormalise": true, "route_scale": 1.0, "rope_theta": 10000.0, "norm_eps": 1e-06, "init_std": 0.075, "tie_embeddings": false}, "data": {"kind": "synthetic", "num_domains": 2, "vocab_size": 32, "num_tokens": 20000, "seed": 0, "validation_share": 0.05}, "balancer": {"kind": "sign", "target": null, "step_size": 0.01, "centred": true, "schedule": "constant", "warm_until": 0.0, "freeze_from": 1.0}, "train": {"steps": 12, "batch_sequences": 4, "seq_len": 32, "micro_batch_sequences": null, "learning_rate": 0.003, "min_lr_share": 0.1, "warmup_steps": 0, "schedule": "cosine", "decay_share": 0.2, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "grad_clip": 1.0, "precision": "float32", "recompute": false, "compile": false, "seed": 0}, "eval": {"tokens": 512, "batch_sequences": 16, "groups": 8, "group_tokens": 4096, "by_k": "powers", "by_k_tokens": 4096, "routes": true, "every_steps": null, "curve_tokens": 8192}, "runtime": {"backend": "torch", "device": "cpu", "threads": 1, "workers": 1, "log_every": 4, "checkpoint_every": 8}, "extends": null}','completed',2,0,NULL,'{"max_vio": 0.8541666666666666, "max_vio_floor": 0.23805877527658714, "max_vio_ratio": 3.588049487670674, "avg_max_vio": 0.7421875, "sup_max_vio": 1.40625, "load_cv": 0.41244213942794605, "effective_util": 0.5525047882246125, "idle_frac": 0.0, "idle_expected": 1.0182202130902542e-16, "dead_zero": 0.0, "dead_tenth": 0.0, "dead_window": 12.0, "idle_streak_max": 0.0, "count_check": 1.0, "train_loss": 3.30956768989563, "tokens": 1536.0, "steps": 12.0, "train_seconds": 1.336588598000617, "tokens_per_second": 1149.1943012963598, "tracking_errors": 0.0, "val_loss": 3.3789777755737305, "val_bits_per_byte": 4.874834480094242, "val_perplexity": 29.340762933799162, "max_vio_global": 0.4375, "max_vio_global_floor": 0.11691061150367926, "eval_tokens": 512.0, "val_bits_per_byte_worst_group": 4.865408096045438, "specialisation": 0.024542560295756286}',NULL,'9b3f400a9fed43a7b3dd00e72fecb973','file://HOME/trials/a814eb04677b9d37/checkpoints/step-00000012.pt','2026-11-26 17:18:29.184','2026-11-26 17:18:29.197','2026-11-26 17:18:30.924',0,NULL,NULL,NULL);
CREATE INDEX trial_by_state ON trial (state);
CREATE INDEX sweep_trial_by_digest ON sweep_trial (digest);
CREATE INDEX attempt_by_state ON attempt (state, lease_until);
CREATE INDEX attempt_by_end ON attempt (ended_at);
COMMIT;
