$(call proto,cri-server/store/records.proto)
$(call library,store,cri-server/store/store.c cri-server/store/schema.c $(G)/cri-server/store/records.pb-c.c)
$(call unit_test,cri-server/store/store_test.c,store common,sqlite3 libprotobuf-c)
$(call unit_test,cri-server/store/schema_test.c,store common,sqlite3 libprotobuf-c)
