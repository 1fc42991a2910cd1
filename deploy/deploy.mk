# What deploy/ adds to the Makefile, which includes this file.

# packages builds the Debian packages into .build/packages; VERSION and
# SOURCE_DATE_EPOCH say which release and of when, else the last commit does.
.PHONY: packages
packages:
	@for p in yaoju-kiosk yaoju-district; do for a in amd64 arm64; do deploy/build.sh $$p $$a .build/packages || exit 1; done; done

# tree makes the small Debian in which the packages are tried.
.PHONY: tree
tree:
	@sudo=; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; $$sudo deploy/tree.sh .build/deploy/tree.tar

# soak-units restarts kioskd two thousand times under a real systemd.
.PHONY: soak-units
soak-units:
	$(GO) test ./deploy -run TestTree/restarts -count=1 -timeout 2h -restarts 2000 -v
