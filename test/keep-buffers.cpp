// Loaded before the Vulkan loader (LD_PRELOAD), it keeps Vulkan's buffers from being destroyed.
// Mesa's driver in software (22.3.6) takes and drops a reference to the buffer of each binding of a
// descriptor set, also of bindings that the shader does not use. ggml leaves buffers that it has destroyed in
// those, which Vulkan allows; the driver then counts in freed memory, and the process ends by a damaged heap
// some time later.
#include <dlfcn.h>

#include <cstdint>
#include <cstring>

using Function = void (*)();

static void keep(void * /* device */, uint64_t /* buffer */, const void * /* allocator */) {}

static Function find(const char * finder, void * of, const char * name) {
    static void * const loader = dlopen("libvulkan.so.1", RTLD_NOW);
    const auto find_there = (Function(*)(void *, const char *))dlsym(loader, finder);
    const Function found = find_there(of, name);
    return found != nullptr && std::strcmp(name, "vkDestroyBuffer") == 0 ? (Function)keep : found;
}

extern "C" Function vkGetInstanceProcAddr(void * instance, const char * name) {
    return find("vkGetInstanceProcAddr", instance, name);
}

extern "C" Function vkGetDeviceProcAddr(void * device, const char * name) {
    return find("vkGetDeviceProcAddr", device, name);
}
