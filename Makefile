# The project's commands. Each sets up what it needs (Debian and Ubuntu as root) or says in a line what to install.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

.PHONY: help demo test bench lint install

help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile

demo: ## bake both images in local VMs, boot the pair, show the agent reaching the builder
	@scripts/setup demo
	@scripts/demo

test: ## run every test, real VMs included
	@scripts/setup test
	@scripts/test

bench: ## measure, side by side with curl and packer where they are installed
	@scripts/setup bench
	@scripts/bench

lint: ## formatting, clippy, documentation, shell scripts, licences
	@scripts/setup lint
	@scripts/lint

install: ## install amibake into cargo's bin folder, with completions and manual pages
	@scripts/setup build
	cargo install --locked --path .
	@scripts/install-pages "$${CARGO_INSTALL_ROOT:-$${CARGO_HOME:-$$HOME/.cargo}}/bin/amibake"
