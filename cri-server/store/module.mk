$(call proto,cri-server/store/records.proto)
$(call library,store,cri-server/store/store.c $(G)/cri-server/store/records.pb-c.c)
$(call unit_test,cri-server/store/store_test.c,store common,sqlite3 libprotobuf-c)
