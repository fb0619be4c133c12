# Manual pages, and what belongs where on a host. DESTDIR and PREFIX as everywhere.
MAN := $(addprefix $(B)/man/,bulkheadctl.1 bulkheadd.8 bulkhead-config.5)
PREFIX ?= /usr
LIB := $(DESTDIR)$(PREFIX)/lib/bulkhead
SHARE := $(DESTDIR)$(PREFIX)/share
UNITS := $(DESTDIR)$(PREFIX)/lib/systemd/system

$(B)/man/bulkheadctl.1: packaging/make-man packaging/man/bulkheadctl.1 $(B)/cri-server/cli/bulkheadctl
	$(call say,MAN,$@)
	$(Q)mkdir -p $(@D) && packaging/make-man commands $(lastword $^) packaging/man/bulkheadctl.1 >$@.new && mv $@.new $@
$(B)/man/bulkhead-config.5: packaging/make-man docs/configuration.md
	$(call say,MAN,$@)
	$(Q)mkdir -p $(@D) && packaging/make-man configuration docs/configuration.md >$@.new && mv $@.new $@
$(B)/man/bulkheadd.8: packaging/man/bulkheadd.8
	$(Q)mkdir -p $(@D) && cp $< $@

.PHONY: man install
man: $(MAN)
install: programs kernel initramfs man
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin $(B)/cri-server/cli/bulkheadctl
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/sbin $(B)/cri-server/bulkheadd
	install -D -m 0755 -t $(LIB) $(B)/cri-server/image/bulkhead-unpack $(B)/hypervisor/vsock/bulkhead-vsock \
		$(B)/hypervisor/vsock/bulkhead-console
	install -D -m 0644 -t $(LIB) $(B)/guest/initramfs.cpio $$(guest-image/build-kernel --print-dir)/vmlinux
	mkdir -p $(UNITS) && sed -e "s,/usr/sbin/,$(PREFIX)/sbin/," packaging/bulkheadd.service >$(UNITS)/bulkheadd.service
	install -D -m 0644 -t $(SHARE)/man/man1 $(B)/man/bulkheadctl.1
	install -D -m 0644 -t $(SHARE)/man/man5 $(B)/man/bulkhead-config.5
	install -D -m 0644 -t $(SHARE)/man/man8 $(B)/man/bulkheadd.8
	mkdir -p $(SHARE)/bash-completion/completions
	$(B)/cri-server/cli/bulkheadctl completion bash >$(SHARE)/bash-completion/completions/bulkheadctl
