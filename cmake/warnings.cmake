# One interface target carries the language rules, warnings and hardening of every target of ours.
add_library(sealift_options INTERFACE)
target_compile_features(sealift_options INTERFACE cxx_std_20)
target_include_directories(sealift_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(sealift_options INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wold-style-cast -Wnon-virtual-dtor
  -Wformat=2 -Wimplicit-fallthrough -Wcast-qual
  -ftrivial-auto-var-init=zero -fstack-clash-protection -fstack-protector-strong -fcf-protection=full)
target_compile_definitions(sealift_options INTERFACE _GLIBCXX_ASSERTIONS)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # Not -Wnull-dereference: g++ 12.2 at -O3 reports it inside libstdc++'s <streambuf> and <bits/stl_algobase.h>.
  target_compile_options(sealift_options INTERFACE -Wduplicated-cond -Wlogical-op)
else()
  target_compile_options(sealift_options INTERFACE -Wthread-safety)
endif()
if(CMAKE_BUILD_TYPE STREQUAL "Release" AND NOT SEALIFT_SANITIZE)
  target_compile_definitions(sealift_options INTERFACE _FORTIFY_SOURCE=3)
endif()
if(SEALIFT_WERROR)
  target_compile_options(sealift_options INTERFACE -Werror)
endif()
if(SEALIFT_SANITIZE)
  # g++ 12 with sanitizers reports uninitialised values inside fmt and libstdc++ that are not (GCC 105562).
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(sealift_options INTERFACE -Wno-maybe-uninitialized -Wno-uninitialized)
  endif()
  target_compile_options(sealift_options INTERFACE -fsanitize=${SEALIFT_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(sealift_options INTERFACE -fsanitize=${SEALIFT_SANITIZE})
endif()

# sealift_test(NAME name SOURCES a_test.cc … LIBS lib …): one gtest binary, one ctest entry for each test case.
function(sealift_test)
  cmake_parse_arguments(ARG "" "NAME;TIMEOUT" "SOURCES;LIBS;ENV" ${ARGN})
  if(NOT SEALIFT_TESTS)
    return()
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  target_link_libraries(${ARG_NAME} PRIVATE sealift_options ${ARG_LIBS} GTest::gmock GTest::gtest GTest::gtest_main)
  gtest_discover_tests(${ARG_NAME} DISCOVERY_TIMEOUT 60 NO_PRETTY_VALUES
    PROPERTIES TIMEOUT ${ARG_TIMEOUT} SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\]")
endfunction()
