# Kubernetes commands of the Makefile, on the cluster of kubectl's context. OVERLAY names the environment; IMAGE the image, by digest or
# by a tag that is never used again; CONFIG files of further settings, a platform's config/common.env for one. WEIGHT, MINUTES and
# PROMETHEUS_URL are the canary's.
OVERLAY ?= staging
WEIGHT ?= 10
MINUTES ?= 10
ON_KUBERNETES = @NAME=$(NAME) OVERLAY="$(OVERLAY)" CONFIG="$(CONFIG)" sh scripts/kubernetes.sh

OWNED := $(OWNED)|^(kubernetes\.mk|deploy/)

.PHONY: deploy-kubernetes rollback-kubernetes canary-kubernetes

deploy-kubernetes: ## Roll IMAGE out on Kubernetes (OVERLAY=production; CONFIG="more.env" adds settings)
	$(ON_KUBERNETES) deploy

rollback-kubernetes: ## Go back to the release before, on Kubernetes
	$(ON_KUBERNETES) rollback

canary-kubernetes: .venv/dev ## Try IMAGE with a share of the requests, and back out if it breaks an objective (WEIGHT=10 MINUTES=10)
	$(ON_KUBERNETES) canary $(WEIGHT) $(BIN)/python scripts/canary.py $(MINUTES)
