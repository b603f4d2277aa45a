-- What the state manager of commit 1c8b079, the first with the tables of version 1, had written when its process
-- was killed in the middle of a run: rows for the tables of schema_1.sql. Not to be changed. The times are of
-- 2026-01-01, one claim each through the native API, through v0 and from inside the process is held, one state
-- waits for its retry, one united node for a second branch, and one run for its delay. The secret's key is in
-- test_migration.py.
INSERT INTO "claims" VALUES('landed-claim',1767225602000);
INSERT INTO "claims" VALUES('landed-local',1767225602000);
INSERT INTO "counts" VALUES(1,0,0,0,0,5,0,0,0,0);
INSERT INTO "counts" VALUES(1,1,1,3,0,2,0,0,1,0);
INSERT INTO "counts" VALUES(1,2,1,0,0,1,0,0,0,0);
INSERT INTO "counts" VALUES(2,0,1,0,0,0,0,0,0,0);
INSERT INTO "graphs" VALUES(1,'landed','graph',1,1767225600000,1767225600000);
INSERT INTO "graphs" VALUES(2,'landed','delayed',2,1767225602000,1767225602000);
INSERT INTO "groups" VALUES(1,1,0,0,2);
INSERT INTO "groups" VALUES(1,2,1,0,1);
INSERT INTO "groups" VALUES(3,1,1,0,0);
INSERT INTO "groups" VALUES(5,1,1,0,0);
INSERT INTO "groups" VALUES(7,1,1,0,0);
INSERT INTO "groups" VALUES(9,1,1,0,0);
INSERT INTO "members" VALUES(1,2,X'00000100000200',11);
INSERT INTO "meta" VALUES('stamp','860e9bb2');
INSERT INTO "nodes" VALUES(1,'landed','Node_t','contract','{"type":"object","properties":{"s":{"type":"string"}},"required":["s"]}','{"type":"object","properties":{"v":{"type":"string"},"w":{"type":"string"}},"required":["v","w"]}','["token"]',1767225600000,1767225600000);
INSERT INTO "nodes" VALUES(2,'landed','Node_b','contract','{"type":"object","properties":{"p":{"type":"string"}},"required":["p"]}','{"type":"object","properties":{"v":{"type":"string"},"w":{"type":"string"}},"required":["v","w"]}','["token"]',1767225600000,1767225600000);
INSERT INTO "nodes" VALUES(3,'landed','Node_c','contract','{"type":"object","properties":{"p":{"type":"string"}},"required":["p"]}','{"type":"object","properties":{"v":{"type":"string"},"w":{"type":"string"}},"required":["v","w"]}','["token"]',1767225600000,1767225600000);
INSERT INTO "nodes" VALUES(4,'landed','Node_u','contract','{"type":"object","properties":{"all":{"type":"string"}},"required":["all"]}','{"type":"object","properties":{"v":{"type":"string"},"w":{"type":"string"}},"required":["v","w"]}','["token"]',1767225600000,1767225600000);
INSERT INTO "nodes" VALUES(5,'landed','Node_d','contract','{"type":"object","properties":{},"required":[]}','{"type":"object","properties":{"v":{"type":"string"},"w":{"type":"string"}},"required":["v","w"]}','[]',1767225602000,1767225602000);
INSERT INTO "runs" VALUES(1,'7ccb8ae1-3053-481b-8a02-54545ca0e858','landed',1,1,1767225600000,NULL,NULL,5,8,0,1);
INSERT INTO "runs" VALUES(2,'1f71b3e4-1a4c-4c3c-8b8b-368348f12926','landed',2,2,1767225602000,NULL,NULL,1,0,0,0);
INSERT INTO "schedules" VALUES(2,'0 * * * *',1767229200000);
INSERT INTO "secrets" VALUES(1,'token','Y-oppA3I8Z-3xdhN_X9PTL71SBc4LGk2bAeZY3dgNmg8Ij9In38LPbrsCMLiQtEZN3VZvxfXnaP9Vw==');
INSERT INTO "states" VALUES(1,1,0,1,'SUCCESS','{"s":"kept"}','{"v":"0","w":"w"}',NULL,NULL,NULL,0,'',X'00',1767225600000,0,NULL,1767225600000,1767225600000,NULL,NULL,NULL,1,NULL,0,0,1767225600000,1767225600000);
INSERT INTO "states" VALUES(2,1,1,2,'SUCCESS','{"p":"0"}','{"v":"0.0","w":"w"}',NULL,NULL,1,0,'1:0',X'00000100',1767225600000,0,NULL,1767225600000,1767225601000,NULL,NULL,NULL,0,NULL,0,0,1767225601000,1767225601000);
INSERT INTO "states" VALUES(3,1,0,1,'SUCCESS','{"s":"kept"}','{"v":"1","w":"w"}',NULL,NULL,NULL,0,'',X'0101',1767225600000,0,NULL,1767225600000,1767225600000,NULL,NULL,NULL,0,NULL,0,0,NULL,1767225600000);
INSERT INTO "states" VALUES(4,1,1,2,'RETRY_CREATED','{"p":"1"}','{}',NULL,'failed before the upgrade',3,0,'3:0',X'01010001',1767225600000,0,NULL,1767225600000,1767225602000,NULL,NULL,NULL,0,NULL,0,0,1767225602000,1767225602000);
INSERT INTO "states" VALUES(5,1,0,1,'SUCCESS','{"s":"kept"}','{"v":"2","w":"w"}',NULL,NULL,NULL,0,'',X'0102',1767225600000,0,NULL,1767225600000,1767225600000,NULL,NULL,NULL,0,NULL,0,0,NULL,1767225600000);
INSERT INTO "states" VALUES(6,1,1,2,'QUEUED','{"p":"2"}','{}',NULL,NULL,5,0,'5:0',X'01020001',1767225600000,0,NULL,1767225600000,1767225600000,'landed-claim','dd262f5ee4815a47','landed-worker',0,3149985,0,0,1767225602000,NULL);
INSERT INTO "states" VALUES(7,1,0,1,'SUCCESS','{"s":"kept"}','{"v":"3","w":"w"}',NULL,NULL,NULL,0,'',X'0103',1767225600000,0,NULL,1767225600000,1767225600000,NULL,NULL,NULL,0,NULL,0,0,NULL,1767225600000);
INSERT INTO "states" VALUES(8,1,1,2,'QUEUED','{"p":"3"}','{}',NULL,NULL,7,0,'7:0',X'01030001',1767225600000,0,NULL,1767225600000,1767225600000,NULL,NULL,NULL,0,NULL,0,0,1767225602000,NULL);
INSERT INTO "states" VALUES(9,1,0,1,'SUCCESS','{"s":"kept"}','{"v":"4","w":"w"}',NULL,NULL,NULL,0,'',X'0104',1767225600000,0,NULL,1767225600000,1767225600000,NULL,NULL,NULL,0,NULL,0,0,NULL,1767225600000);
INSERT INTO "states" VALUES(10,1,1,2,'QUEUED','{"p":"4"}','{}',NULL,NULL,9,0,'9:0',X'01040001',1767225600000,0,NULL,1767225600000,1767225600000,'landed-local','4e27f88ba1940125','landed-local-worker',1,NULL,0,0,1767225602000,NULL);
INSERT INTO "states" VALUES(11,1,2,3,'SUCCESS','{"p":"0.0"}','{"v":"c of 0.0","w":"w"}',NULL,NULL,2,0,'1:0',X'00000100000200',1767225601000,0,NULL,1767225601000,1767225601000,NULL,NULL,NULL,0,NULL,0,0,1767225601000,1767225601000);
INSERT INTO "states" VALUES(12,1,1,2,'SUCCESS','{"p":"0"}','{"v":"0.1","w":"w"}',NULL,NULL,1,0,'1:0',X'0000010101',1767225601000,0,NULL,1767225601000,1767225601000,NULL,NULL,NULL,0,NULL,0,0,NULL,1767225601000);
INSERT INTO "states" VALUES(13,1,2,3,'CREATED','{"p":"0.1"}','{}',NULL,NULL,12,0,'1:0',X'00000101010002',1767225601000,0,NULL,1767225601000,1767225601000,NULL,NULL,NULL,0,NULL,0,0,NULL,NULL);
INSERT INTO "states" VALUES(14,1,1,2,'CREATED','{"p":"1"}','{}',NULL,NULL,3,0,'3:0',X'01010001',1767225602001,1,NULL,1767225602000,1767225602000,NULL,NULL,NULL,0,NULL,0,0,NULL,NULL);
INSERT INTO "states" VALUES(15,2,0,5,'CREATED','{}','{}',NULL,NULL,NULL,0,'',X'',1767226202000,0,NULL,1767225602000,1767225602000,NULL,NULL,NULL,0,NULL,0,0,NULL,NULL);
INSERT INTO "store" VALUES(1,'k','kept');
INSERT INTO "templates" VALUES(1,1,'{"secrets":{},"nodes":[{"node_name":"Node_t","namespace":"landed","identifier":"t","inputs":{"s":"${{store.k}}"},"next_nodes":["b"],"unites":null},{"node_name":"Node_b","namespace":"landed","identifier":"b","inputs":{"p":"${{t.outputs.v}}"},"next_nodes":["c"],"unites":null},{"node_name":"Node_c","namespace":"landed","identifier":"c","inputs":{"p":"${{b.outputs.v}}"},"next_nodes":["u"],"unites":null},{"node_name":"Node_u","namespace":"landed","identifier":"u","inputs":{"all":"${{c.outputs.v}}"},"next_nodes":[],"unites":{"identifier":"t","strategy":"ALL_SUCCESS"}}],"retry_policy":{"max_retries":2,"strategy":"FIXED","backoff_factor":1,"exponent":2,"max_delay":null},"store_config":{"required_keys":["k"],"default_values":{}},"triggers":[]}','VALID','[]',1767225600000);
INSERT INTO "templates" VALUES(2,2,'{"secrets":{},"nodes":[{"node_name":"Node_d","namespace":"landed","identifier":"d","inputs":{},"next_nodes":[],"unites":null}],"retry_policy":{"max_retries":2,"strategy":"FIXED","backoff_factor":1,"exponent":2,"max_delay":null},"store_config":{"required_keys":[],"default_values":{}},"triggers":[{"type":"CRON","value":{"expression":"0 * * * *"}}]}','VALID','[]',1767225602000);
INSERT INTO "sqlite_sequence" VALUES('states',15);
