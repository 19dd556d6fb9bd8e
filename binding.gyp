{
  "targets": [
    {
      "target_name": "patchscopes",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake-js build",
          "inputs": ["native/install.mjs", "CMakeLists.txt"],
          "outputs": ["build/built.json"],
          "action": ["node", "native/install.mjs"]
        }
      ]
    }
  ]
}
