# The guest's kernel, cached outside the tree, and its initramfs.

.PHONY: kernel initramfs
kernel:
	$(Q)guest-image/build-kernel
	$(Q)mkdir -p build/guest
	$(Q)ln -sf "$$(guest-image/build-kernel --print-dir)"/vmlinux \
		"$$(guest-image/build-kernel --print-dir)"/bzImage build/guest

initramfs: $(B)/guest/initramfs.cpio
$(B)/guest/initramfs.cpio: $(B)/agent/bulkhead-agent guest-image/build-initramfs
	$(call say,CPIO,$@)
	$(Q)mkdir -p $(@D)
	$(Q)guest-image/build-initramfs $< $@
