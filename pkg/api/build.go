package api

// BuildUsageRoute answers GET with the build cache, as GET /system/df?type=build-cache has it.
const BuildUsageRoute = "/build/usage"
