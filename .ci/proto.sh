#!/bin/sh
# Regenerates the Go of proto/. Needs protoc (Debian: protobuf-compiler); the plugins are
# pinned in .ci/tools/go.mod.
set -eu
cd "$(dirname "$0")/.."
plugins=$(mktemp -d)
trap 'rm -rf "$plugins"' EXIT
for tool in protoc-gen-go protoc-gen-go-grpc protoc-gen-go-ttrpc; do
	printf '#!/bin/sh\nexec go tool -modfile=%s/.ci/tools/go.mod %s "$@"\n' "$PWD" "$tool" >"$plugins/$tool"
	chmod +x "$plugins/$tool"
done
PATH=$plugins:$PATH
cd proto
protoc -I. --go_out=. --go_opt=paths=source_relative strata/explain/v1/explain.proto strata/shim/v1/shim.proto strata/supervisor/v1/supervisor.proto
protoc -I. --go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative strata/shim/v1/shim.proto
protoc -I. --go-grpc_out=. --go-grpc_opt=paths=source_relative strata/supervisor/v1/supervisor.proto
# BuildKit's protocol: the messages that both ends of a build speak.
cd ../pkg/buildkit
protoc -I. --go_out=../.. --go_opt=module=strata --go-grpc_out=../.. --go-grpc_opt=module=strata controlpb/*.proto gatewaypb/*.proto sessionpb/*.proto
